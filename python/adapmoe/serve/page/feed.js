// SPDX-License-Identifier: Apache-2.0
// The stream of what the machine does: opened again whenever it ends, closed while nobody looks.

import { ask, readEvents } from "./api.js";

const SILENCE_MS = 12_000; // the server gives a sign of life every few seconds
const LONGEST_MS = 5_000; // between two attempts

/**
 * Calls `onEvent(data)` for each event and `onState(state, message)` when the state changes:
 * "connecting", "live", "lost" (it goes on trying), "refused" (so does it), "key" (it waits for
 * another API key: `restart`).
 */
export class Feed {
  #onEvent;
  #onState;
  #state = "";
  #running = null; // AbortController of the loop
  #wake = () => {};

  constructor(onEvent, onState) {
    this.#onEvent = onEvent;
    this.#onState = onState;
    document.addEventListener("visibilitychange", () => this.#look());
    addEventListener("online", () => this.#wake());
    this.#look();
  }

  /** Begins anew, such as with another key. */
  restart() {
    this.#running?.abort();
    this.#running = null;
    this.#look();
  }

  #look() {
    if (document.hidden) {
      this.#running?.abort();
      this.#running = null;
    } else if (this.#running === null) {
      this.#running = new AbortController();
      this.#run(this.#running.signal);
    }
  }

  async #run(signal) {
    let delay = 250;
    while (!signal.aborted) {
      try {
        // Every attempt would be read aloud.
        if (this.#state !== "lost" && this.#state !== "refused") this.#tell("connecting");
        await this.#follow(signal, () => (delay = 250));
        this.#tell("lost"); // the server ended it: it shuts down
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401) {
          this.#tell("key", error.message);
          return;
        }
        this.#tell(error.status ? "refused" : "lost", error.message);
      }
      await this.#pause(delay * (1 + Math.random() / 4));
      delay = Math.min(2 * delay, LONGEST_MS);
    }
  }

  /** Reads one stream to its end; one that is silent for too long is taken for ended. */
  async #follow(signal, onLife) {
    const stream = new AbortController();
    const stop = () => stream.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, SILENCE_MS);
    try {
      const response = await ask("activity", { signal: stream.signal });
      for await (const data of readEvents(response)) {
        clearTimeout(silence);
        silence = setTimeout(stop, SILENCE_MS);
        onLife();
        if (data === null) continue;
        this.#tell("live");
        this.#onEvent(JSON.parse(data));
      }
    } catch (error) {
      if (signal.aborted || error.name !== "AbortError") throw error;
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", stop);
      stop();
    }
  }

  #pause(ms) {
    return new Promise((done) => {
      const timer = setTimeout(done, ms);
      this.#wake = () => {
        clearTimeout(timer);
        done();
      };
    });
  }

  #tell(state, message = "") {
    if (state === this.#state) return;
    this.#state = state;
    this.#onState(state, message);
  }
}
