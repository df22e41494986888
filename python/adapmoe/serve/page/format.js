// SPDX-License-Identifier: Apache-2.0
// Numbers as people read them. null: nothing is known.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

function fixed(value, digits) {
  return value.toLocaleString("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
}

export function whole(value) {
  return fixed(value, 0);
}

/** Three digits or so; as many at the next value, so that nothing jumps. */
export function figure(value) {
  if (value === null) return "–";
  return fixed(value, value === 0 || value >= 99.95 ? 0 : value < 9.995 ? 2 : 1);
}

export function bytes(value) {
  if (value === null) return "–";
  let unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? whole(value) : figure(value)} ${UNITS[unit]}`;
}

export function share(value) {
  return value === null ? "–" : `${fixed(100 * value, value > 0 && value < 0.0995 ? 1 : 0)} %`;
}

export function seconds(value) {
  return value < 1 ? `${whole(1000 * value)} ms` : `${figure(value)} s`;
}
