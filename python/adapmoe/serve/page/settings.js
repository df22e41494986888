// SPDX-License-Identifier: Apache-2.0
// What the user has set, for as long as the tab is open.

const STORE = "adapmoe";
const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];

/** system, key: texts; the others numbers or null: what the server does by itself. */
export const settings = { system: "", key: "", ...stored() };

function stored() {
  try {
    return JSON.parse(sessionStorage.getItem(STORE)) ?? {};
  } catch {
    return {};
  }
}

/** The parameters of a request that have been set. */
export function parameters() {
  const set = NUMBERS.filter((name) => typeof settings[name] === "number");
  return Object.fromEntries(set.map((name) => [name, settings[name]]));
}

/** Lets the button open the dialog; `changed` is called after something was saved. */
export function installSettings(button, dialog, form, changed) {
  button.addEventListener("click", () => {
    for (const field of form.elements) {
      if (field.name) field.value = settings[field.name] ?? "";
    }
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "save") return;
    const texts = new FormData(form);
    settings.system = texts.get("system").trim();
    settings.key = texts.get("key").trim();
    for (const name of NUMBERS) {
      const text = texts.get(name).trim();
      settings[name] = text === "" ? null : Number(text);
    }
    sessionStorage.setItem(STORE, JSON.stringify(settings));
    changed();
  });
}
