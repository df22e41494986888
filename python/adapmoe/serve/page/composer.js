// SPDX-License-Identifier: Apache-2.0
// The field for the prompt, its buttons and keys, and the errors below the conversation.

const LABELS = { chat: "Your message", text: "The text to continue" };

export class Composer {
  #chat;
  #parts;

  /** `parts`: the elements, by what they are for. */
  constructor(chat, parts) {
    this.#chat = chat;
    this.#parts = parts;
    parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    parts.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !parts.dialog.open) chat.stop();
    });
    parts.stop.addEventListener("click", () => chat.stop());
    parts.regenerate.addEventListener("click", () => this.#run(() => chat.again()));
    parts.newChat.addEventListener("click", () => {
      chat.clear();
      this.#complain(null);
      this.#update();
      parts.prompt.focus();
    });
    for (const radio of parts.modes) radio.addEventListener("change", () => this.#update());
    this.#update();
  }

  get #mode() {
    return this.#parts.modes.find((radio) => radio.checked).value;
  }

  #send() {
    const { prompt } = this.#parts;
    const given = prompt.value;
    if (!given.trim() || this.#chat.running) return;
    prompt.value = "";
    this.#run(() => this.#chat.send(this.#mode, given));
  }

  async #run(work) {
    if (this.#chat.running) return;
    const { announcer, prompt, send, stop } = this.#parts;
    this.#complain(null);
    announcer.textContent = "";
    const working = work();
    const pressed = document.activeElement;
    this.#update();
    if (pressed === send) stop.focus(); // a button that is off loses the focus
    const { text, error, given } = await working;
    if (given && !prompt.value) prompt.value = given;
    const lost = document.activeElement === stop || document.activeElement === document.body;
    this.#update();
    if (lost) prompt.focus();
    announcer.textContent = text;
    this.#complain(error);
  }

  #update() {
    const { newChat, prompt, label, regenerate, send, stop } = this.#parts;
    const { running, empty } = this.#chat;
    send.disabled = running;
    stop.disabled = !running;
    regenerate.disabled = running || empty;
    newChat.disabled = empty && !running;
    label.textContent = LABELS[this.#mode];
    prompt.placeholder = this.#mode === "chat" ? "Ask something" : "Once upon a time";
  }

  /** Shows an error, and where the model cannot chat a way out; null: takes it away. */
  #complain(error) {
    const { alert, modes } = this.#parts;
    alert.replaceChildren();
    if (error === null) return;
    const message = document.createElement("p");
    message.textContent = sentence(error);
    alert.append(message);
    if (this.#mode !== "chat" || !error.message.includes("chat template")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Continue text instead";
    button.addEventListener("click", () => {
      modes.find((radio) => radio.value === "text").checked = true;
      this.#complain(null);
      this.#update();
      this.#parts.prompt.focus();
    });
    alert.append(button);
  }
}

function sentence(error) {
  const { message, status } = error;
  const begun = message.charAt(0).toUpperCase() + message.slice(1);
  if (status === 401) return `${begun}. Enter it in the settings.`;
  return status === 429 || status === 503 ? `${begun}. You can try again.` : begun;
}
