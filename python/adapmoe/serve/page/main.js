// SPDX-License-Identifier: Apache-2.0
// Puts the parts of the page together.

import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Feed } from "./feed.js";
import { Figures } from "./figures.js";
import { ExpertMap } from "./map.js";
import { installSettings } from "./settings.js";
import { Transcript } from "./transcript.js";

const at = (id) => document.getElementById(id);

const STATES = {
  connecting: "Connecting",
  live: "Connected",
  lost: "Connection lost, trying again",
  refused: "Refused, trying again",
  key: "API key needed",
};

const chat = new Chat(new Transcript(at("log"), at("welcome")));
const figures = new Figures();
const map = new ExpertMap();

new Composer(chat, {
  alert: at("alert"),
  announcer: at("announcer"),
  dialog: at("settings"),
  form: at("composer"),
  label: at("prompt-label"),
  modes: [...document.querySelectorAll("input[name=mode]")],
  newChat: at("new-chat"),
  prompt: at("prompt"),
  regenerate: at("regenerate"),
  send: at("send"),
  stop: at("stop"),
});

const feed = new Feed(
  (now) => {
    figures.show(now);
    map.show(now);
  },
  (state, message) => {
    const shown = at("connection");
    shown.dataset.state = state;
    shown.textContent = STATES[state];
    shown.title = message;
    document.body.classList.toggle("stale", state === "lost" || state === "key");
    if (state === "live") learnModel();
  },
);

installSettings(at("open-settings"), at("settings"), at("settings-form"), () => feed.restart());

/** Another server may have come back than was lost. */
async function learnModel() {
  try {
    await chat.learnModel();
    at("model").textContent = chat.model;
    document.title = `${chat.model} – AdapMoE`;
  } catch {
    // the feed tells that the server is gone
  }
}
