// SPDX-License-Identifier: Apache-2.0
// Requests to the server this page came from, with the API key, and what it answers.

import { settings } from "./settings.js";

/** An error that the server answered, or that there is no server. `status` 0: nobody answered. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Fetches `path`; a body makes it a POST. Throws ServerError, or AbortError where `signal` did. */
export async function ask(path, { body, signal } = {}) {
  const headers = new Headers();
  if (settings.key) headers.set("Authorization", `Bearer ${settings.key}`);
  if (body !== undefined) headers.set("Content-Type", "application/json");
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers,
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached.", 0);
  }
  if (!response.ok) throw new ServerError(await complaint(response), response.status);
  return response;
}

async function complaint(response) {
  try {
    const found = (await response.json()).error.message;
    if (typeof found === "string") return found;
  } catch {
    // whoever answered, it was not the server itself
  }
  return `The server answered with status ${response.status}.`;
}

/** The data of each server-sent event of a response, as text, and null for each comment. */
export async function* readEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ")) yield line.slice(6);
        else if (line.startsWith(":")) yield null;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The connection to the server was lost.", 0);
  }
}
