// SPDX-License-Identifier: Apache-2.0
// The conversation on the screen. What anybody wrote becomes text nodes, never markup.

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

/** One message. */
class Entry {
  #scroll;
  #text = document.createTextNode("");
  #thoughts = null; // a text node, once the model thinks
  #body = element("div", "entry-text");
  #foot = element("p", "entry-foot");

  constructor(role, name, scroll) {
    this.#scroll = scroll;
    this.node = element("article", `entry ${role}`);
    this.node.setAttribute("aria-label", name);
    this.node.append(element("p", "entry-name", name), this.#body);
    this.#body.append(this.#text);
  }

  get text() {
    return this.#text.data;
  }

  add(text) {
    this.#scroll(() => this.#text.appendData(text));
  }

  /** What stands before the answer, as a text that the model goes on with. */
  setGiven(text) {
    this.#body.prepend(element("span", "given", text));
  }

  addThought(text) {
    this.#scroll(() => {
      if (this.#thoughts === null) {
        const box = element("details", "thoughts");
        const inside = element("div", "entry-text");
        this.#thoughts = document.createTextNode("");
        inside.append(this.#thoughts);
        box.append(element("summary", "", "Thinking"), inside);
        this.node.insertBefore(box, this.#body);
      }
      this.#thoughts.appendData(text);
    });
  }

  setBusy(busy) {
    this.node.classList.toggle("busy", busy);
    this.node.setAttribute("aria-busy", String(busy));
  }

  setFoot(text) {
    this.#scroll(() => {
      this.#foot.textContent = text;
      this.node.append(this.#foot);
    });
  }
}

/** All messages; follows the newest as long as the reader is at the end. */
export class Transcript {
  #log;
  #welcome;

  constructor(log, welcome) {
    this.#log = log;
    this.#welcome = welcome;
  }

  add(role, name, text = "") {
    const entry = new Entry(role, name, (change) => this.#follow(change));
    this.#welcome.hidden = true;
    this.#log.append(entry.node);
    this.#log.scrollTop = this.#log.scrollHeight;
    if (text) entry.add(text);
    return entry;
  }

  remove(entry) {
    entry.node.remove();
    this.#welcome.hidden = this.#log.querySelector(".entry") !== null;
  }

  clear() {
    for (const entry of this.#log.querySelectorAll(".entry")) entry.remove();
    this.#welcome.hidden = false;
  }

  #follow(change) {
    const log = this.#log;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    change();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}
