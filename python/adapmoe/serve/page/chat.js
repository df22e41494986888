// SPDX-License-Identifier: Apache-2.0
// A conversation with the model: who said what, and one answer at a time, streamed.

import { ask, readEvents, ServerError } from "./api.js";
import { figure, seconds, whole } from "./format.js";
import { parameters, settings } from "./settings.js";

const ENDINGS = { length: "reached its limit", content_filter: "left out" };

/** Reads one streamed answer: its pieces are told as they come, the rest is for its last line. */
class Answer {
  text = "";
  #asked = performance.now();
  #first = null;
  #last = null;
  #usage = null;
  #ending = null;

  /** Reads all of it; throws what ended it early. */
  async read(response, entry) {
    for await (const data of readEvents(response)) {
      if (data === null) continue;
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(chunk.error.message, 500);
      this.#usage = chunk.usage ?? this.#usage;
      for (const choice of chunk.choices) this.#take(choice, entry);
    }
    throw new ServerError("The connection to the server was lost.", 0);
  }

  #take(choice, entry) {
    this.#ending = choice.finish_reason ?? this.#ending;
    const text = choice.text ?? choice.delta?.content ?? "";
    const thought = choice.delta?.reasoning_content ?? "";
    if (!text && !thought) return;
    this.#last = performance.now();
    this.#first ??= this.#last;
    if (thought) entry.addThought(thought);
    if (text) entry.add(text);
    this.text += text;
  }

  /** Tokens and times, `how` it ended first. */
  describe(how) {
    const parts = [how ?? ENDINGS[this.#ending]];
    const tokens = this.#usage?.completion_tokens;
    const time = (this.#last - this.#first) / 1000;
    if (tokens) parts.push(`${whole(tokens)} ${tokens === 1 ? "token" : "tokens"}`);
    if (tokens > 1 && time > 0) parts.push(`${figure((tokens - 1) / time)} tokens/s`);
    if (this.#first !== null) {
      parts.push(`first after ${seconds((this.#first - this.#asked) / 1000)}`);
    }
    const cached = this.#usage?.prompt_tokens_details?.cached_tokens;
    if (this.#usage) {
      const prompt = `prompt ${whole(this.#usage.prompt_tokens)} tokens`;
      parts.push(cached ? `${prompt}, ${whole(cached)} reused` : prompt);
    }
    return parts.filter(Boolean).join(" · ");
  }
}

/** The turns so far. One answer runs at a time. */
export class Chat {
  model = ""; // its name, once it is known
  #transcript;
  #turns = []; // {mode, given, answer, entries}; those that have ended
  #running = null; // AbortController

  constructor(transcript) {
    this.#transcript = transcript;
  }

  get running() {
    return this.#running !== null;
  }

  get empty() {
    return this.#turns.length === 0;
  }

  /** Asks for the name of the model. */
  async learnModel(signal) {
    const { data } = await (await ask("v1/models", { signal })).json();
    this.model = data[0].id;
  }

  stop() {
    this.#running?.abort();
  }

  clear() {
    this.stop();
    this.#turns = [];
    this.#transcript.clear();
  }

  /** Asks again for the last answer. */
  async again() {
    const turn = this.#turns.pop();
    for (const entry of turn.entries) this.#transcript.remove(entry);
    return this.send(turn.mode, turn.given);
  }

  /**
   * Asks for an answer to `given`, or in the mode "text" for its continuation.
   *
   * Returns {text, error, given}: what was written; an Error where it ended early, else null;
   * `given` where nothing came of it, and the turn has been taken back, else "".
   */
  async send(mode, given) {
    const turns = this.#turns; // others, once the chat begins anew
    const turn = { mode, given, answer: "", entries: [] };
    if (mode === "chat") turn.entries.push(this.#transcript.add("user", "You", given));
    const entry = this.#transcript.add("model", this.model || "Model");
    turn.entries.push(entry);
    if (mode === "text") entry.setGiven(given);
    entry.setBusy(true);
    const controller = (this.#running = new AbortController());
    const answer = new Answer();
    let error = null;
    try {
      if (!this.model) await this.learnModel(controller.signal);
      const { path, body } = this.#request(turn);
      const response = await ask(path, { body, signal: controller.signal });
      await answer.read(response, entry);
    } catch (caught) {
      error = controller.signal.aborted ? null : caught;
    }
    this.#running = null;
    entry.setBusy(false);
    turn.answer = answer.text;
    const early = error !== null || controller.signal.aborted;
    if (early && !answer.text) {
      for (const each of turn.entries) this.#transcript.remove(each);
      return { text: "", error, given: turns === this.#turns ? given : "" };
    }
    turns.push(turn);
    const how = error ? "cut off" : controller.signal.aborted ? "stopped" : undefined;
    entry.setFoot(answer.describe(how));
    return { text: answer.text, error, given: "" };
  }

  #request(turn) {
    const common = {
      model: this.model,
      stream: true,
      stream_options: { include_usage: true },
      ...parameters(),
    };
    if (turn.mode === "text") {
      return { path: "v1/completions", body: { ...common, prompt: turn.given } };
    }
    const messages = settings.system ? [{ role: "system", content: settings.system }] : [];
    for (const { mode, given, answer } of this.#turns) {
      if (mode !== "chat") continue;
      messages.push({ role: "user", content: given }, { role: "assistant", content: answer });
    }
    messages.push({ role: "user", content: turn.given });
    return { path: "v1/chat/completions", body: { ...common, messages } };
  }
}
