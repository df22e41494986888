// SPDX-License-Identifier: Apache-2.0
// Rates, queue, energy and memory as numbers and bars.

import { bytes, figure, share } from "./format.js";

const CHART_POINTS = 120; // of the last minute
const CHART_MS = 500;

export class Figures {
  #at = (id) => document.getElementById(id);
  #rates = [];
  #drawn = -Infinity;

  show(now) {
    this.#put("rate", figure(now.tokens_per_s));
    // While nothing runs there is no share of anything: the last one stays, paler.
    this.#keep("hits", now.hit_rate, share);
    this.#keep("stall", now.stall_share, share);
    this.#put("reading", `${bytes(now.read_bytes_per_s)}/s`);
    this.#put("read", `${bytes(now.read_bytes)} in all`);
    this.#put("running", `${now.queue.running} of ${now.queue.slots}`);
    this.#put("waiting", `${now.queue.waiting} waiting, at most ${now.queue.max_queue}`);
    this.#at("energy-box").hidden = now.watts === null && now.joules_per_token === null;
    this.#keep("energy", now.joules_per_token, (value) => `${figure(value)} J`);
    this.#keep("watts", now.watts, (value) => `${figure(value)} W`);
    this.#memory(now.memory);
    this.#chart(now.tokens_per_s);
  }

  #put(id, text) {
    const found = this.#at(id);
    if (found.textContent !== text) found.textContent = text;
  }

  #keep(id, value, format) {
    this.#at(id).classList.toggle("past", value === null);
    if (value !== null) this.#put(id, format(value));
  }

  #memory(memory) {
    const named = { expert: memory.expert, kv: memory.kv, dense: memory.dense };
    const spent = { ...named, scratch: memory.scratch };
    const given = Math.max(memory.most - memory.ceiling, 0);
    const rest = memory.ceiling - Object.values(spent).reduce((sum, part) => sum + part, 0);
    const parts = { ...spent, rest: Math.max(rest, 0), given_back: given };
    const whole = Math.max(memory.most, memory.ceiling);
    for (const [part, size] of Object.entries(parts)) {
      const bar = document.querySelector(`#memory-bar [data-part=${part}]`);
      bar.style.width = `${(100 * size) / whole}%`;
      const row = document.querySelector(`.parts [data-part=${part}]`);
      if (row) row.querySelector("dd").textContent = bytes(size);
    }
    document.querySelector(".parts [data-part=given_back]").hidden = given === 0;
    const of = given ? ` of ${bytes(memory.most)}` : "";
    this.#put("ceiling", `${bytes(memory.ceiling)}${of}`);
    this.#at("room").hidden = memory.room === null;
    if (memory.room !== null) {
      const pressure = memory.pressure >= 0.005 ? `, pressure ${share(memory.pressure)}` : "";
      this.#put("room", `${bytes(memory.room)} more are free here${pressure}.`);
    }
  }

  #chart(rate) {
    const now = performance.now();
    if (now - this.#drawn < CHART_MS) return;
    this.#drawn = now;
    this.#rates.push(rate);
    if (this.#rates.length > CHART_POINTS) this.#rates.shift();
    const most = Math.max(...this.#rates, 1e-9);
    const first = CHART_POINTS - this.#rates.length;
    const points = this.#rates.map((each, at) => `${first + at},${30 - (28 * each) / most}`);
    this.#at("rate-chart").querySelector("polyline").setAttribute("points", points.join(" "));
  }
}
