// SPDX-License-Identifier: Apache-2.0
// The map of all experts: one cell each, and the same as words and as a table.

const RESIDENT = 1;
const LOADING = 2;
const USED = 4;
const LEFT = 8;
const WORDS = [
  [RESIDENT, "in memory"],
  [LOADING, "being read"],
  [USED, "used by this token"],
  [LEFT, "left out by the gate"],
];
const NAMES = { [RESIDENT]: "resident", [LOADING]: "loading", [USED]: "used", [LEFT]: "left" };

const LARGEST = 26; // CSS pixels of a cell
const SLOW_MS = 1000; // between two changes of what is read aloud, and of a table

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Numbers of experts with each flag, for a map or a part of one. */
function count(states) {
  const found = { [RESIDENT]: 0, [LOADING]: 0, [USED]: 0, [LEFT]: 0 };
  for (const state of states) {
    for (const [flag] of WORDS) if (state & flag) found[flag] += 1;
  }
  return found;
}

export class ExpertMap {
  #canvas = document.getElementById("map");
  #cell = document.getElementById("map-cell");
  #details = document.getElementById("map-details");
  #layers = 0;
  #experts = 0;
  #states = [];
  #colors = {};
  #slow = -Infinity;
  #drawn = -Infinity;

  constructor() {
    const recolor = () => {
      this.#colors = this.#readColors();
      this.#draw();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
    new ResizeObserver(() => this.#draw()).observe(document.getElementById("map-frame"));
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#details.addEventListener("toggle", () => this.#fillTable());
    recolor();
  }

  show({ layers, experts, map }) {
    const shape = layers !== this.#layers || experts !== this.#experts;
    [this.#layers, this.#experts] = [layers, experts];
    this.#states = Array.from(map, (digit) => Number.parseInt(digit, 16));
    const now = performance.now();
    if (shape || !calm.matches || now - this.#drawn >= SLOW_MS) {
      this.#drawn = now;
      this.#draw();
      this.#fillLegend();
    }
    if (shape || now - this.#slow >= SLOW_MS) {
      this.#slow = now;
      this.#describe();
      this.#fillTable();
    }
  }

  /** Layers go to the right where there are more of them than experts, else down. */
  get #across() {
    return this.#layers > this.#experts;
  }

  get #grid() {
    const [columns, rows] = this.#across
      ? [this.#layers, this.#experts]
      : [this.#experts, this.#layers];
    const room = document.getElementById("map-frame").clientWidth;
    const scale = devicePixelRatio;
    // Whole pixels of the screen, so that all cells look alike.
    const size = Math.max(Math.floor(Math.min(room / columns, LARGEST) * scale), 1);
    return { columns, rows, size, scale };
  }

  #readColors() {
    const style = getComputedStyle(document.documentElement);
    const names = ["empty", "resident", "loading", "used", "left"];
    return Object.fromEntries(names.map((n) => [n, style.getPropertyValue(`--map-${n}`)]));
  }

  #draw() {
    if (this.#layers === 0) return;
    const { columns, rows, size, scale } = this.#grid;
    const canvas = this.#canvas;
    const [width, height] = [columns * size, rows * size];
    if (canvas.width !== width || canvas.height !== height) {
      [canvas.width, canvas.height] = [width, height];
      canvas.style.width = `${width / scale}px`;
      canvas.style.height = `${height / scale}px`;
    }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const gap = size >= 12 * scale ? Math.round(2 * scale) : size >= 4 ? 1 : 0;
    const side = size - gap;
    this.#states.forEach((state, at) => {
      const [layer, expert] = [Math.floor(at / this.#experts), at % this.#experts];
      const [x, y] = this.#across ? [layer * size, expert * size] : [expert * size, layer * size];
      this.#paint(context, state, x, y, side);
    });
  }

  /** Each state has its own shape, too, where a cell is large enough for one. */
  #paint(context, state, x, y, side) {
    const colors = this.#colors;
    context.fillStyle = state & RESIDENT ? colors.resident : colors.empty;
    context.fillRect(x, y, side, side);
    const inset = side >= 8 ? Math.round(side / 5) : 0;
    const inner = side - 2 * inset;
    if (state & USED) {
      context.fillStyle = colors.used;
      context.fillRect(x + inset, y + inset, inner, inner);
    }
    if (state & LOADING) {
      context.fillStyle = colors.loading;
      context.fillRect(x, y + side - Math.ceil(side / 2), side, Math.ceil(side / 2));
    }
    if (state & LEFT) {
      const line = Math.max(Math.round(side / 8), 1);
      context.strokeStyle = colors.left;
      context.lineWidth = line;
      context.strokeRect(x + line / 2, y + line / 2, side - line, side - line);
    }
  }

  #fillLegend() {
    const counts = count(this.#states);
    for (const [flag] of WORDS) {
      const place = document.querySelector(`.legend [data-state=${NAMES[flag]}] dd`);
      const text = String(counts[flag]);
      if (place.textContent !== text) place.textContent = text;
    }
  }

  #describe() {
    const counts = count(this.#states);
    const words = WORDS.map(([flag, word]) => `${counts[flag]} ${word}`).join(", ");
    const shape = `${this.#layers} layers of ${this.#experts} experts`;
    this.#canvas.setAttribute("aria-label", `Map of the experts, ${shape}: ${words}`);
    const sides = this.#across ? "layers to the right" : "layers down";
    document.getElementById("map-shape").textContent = `${shape}, ${sides}`;
  }

  #fillTable() {
    if (!this.#details.open || this.#layers === 0) return;
    const rows = document.getElementById("map-rows");
    while (rows.rows.length > this.#layers) rows.deleteRow(-1);
    while (rows.rows.length < this.#layers) {
      const row = rows.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = String(rows.rows.length - 1);
      row.append(head);
      for (let column = 0; column < WORDS.length; column += 1) row.insertCell();
    }
    for (let layer = 0; layer < this.#layers; layer += 1) {
      const at = layer * this.#experts;
      const counts = count(this.#states.slice(at, at + this.#experts));
      WORDS.forEach(([flag], column) => {
        rows.rows[layer].cells[column + 1].textContent = String(counts[flag]);
      });
    }
  }

  #point(event) {
    if (this.#layers === 0) return;
    const { size, scale } = this.#grid;
    const [column, row] = [event.offsetX, event.offsetY].map((v) => Math.floor((v * scale) / size));
    const [layer, expert] = this.#across ? [column, row] : [row, column];
    const state = this.#states[layer * this.#experts + expert];
    if (state === undefined || layer < 0 || expert < 0 || expert >= this.#experts) return;
    const words = WORDS.filter(([flag]) => state & flag).map(([, word]) => word);
    const what = words.join(", ") || "on the disk";
    this.#cell.textContent = `Layer ${layer}, expert ${expert}: ${what}`;
  }
}
