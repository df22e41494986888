# SPDX-License-Identifier: Apache-2.0
"""Chromium, driven by Playwright, and a page of ours in it that is watched."""

import json
import os
import shutil
import time
from contextlib import contextmanager

import pytest

_QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
_LONGEST_S = 60  # that anything may take, on a machine that is busy with other tests


@contextmanager
def chromium():
    """A browser that reaches this machine alone; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install --group slow")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs chromium: apt-get install chromium")
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=[*_QUIET, *root])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """The server's page in a tab of its own, and all that it asked for and complained about."""

    def __init__(self, browser, url, **context):
        self.url = url
        self.requests = []
        self.complaints = []
        self.allowed = ()  # complaints that the test provokes
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 860}, **context}
        )
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(_LONGEST_S * 1000)
        self.tab.on("request", lambda request: self.requests.append(request))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("console", self._note)

    def _note(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, state="live"):
        self.tab.goto(self.url)
        self.wait_for(state)
        return self

    def wait_for(self, state):
        """Until the page says so of its connection."""
        self.tab.wait_for_selector(f"#connection[data-state={state}]")

    def until(self, expression):
        """Until a JavaScript expression is true. (Playwright's own way is against the policy.)"""
        ends = time.monotonic() + _LONGEST_S
        while not self.tab.evaluate(expression):
            assert time.monotonic() < ends, f"this never became true: {expression}"
            self.tab.wait_for_timeout(20)

    def until_answer_begins(self):
        """Until some words of the only answer are there."""
        self.until("document.querySelector('.entry.model')?.textContent.length > 60")

    def let_answers_be_long(self):
        """Ask for answers that go on to the end of the context."""

        def extend(route):
            body = {**route.request.post_data_json, "ignore_eos": True}
            route.continue_(post_data=json.dumps(body, allow_nan=False))

        self.tab.route("**/v1/chat/completions", extend)

    def set(self, **values):
        """Set something in the settings, as a user does."""
        self.tab.click("#open-settings")
        for name, value in values.items():
            self.tab.fill(f"#settings-form [name={name}]", str(value))
        self.tab.click("#settings-form button[value=save]")

    def send(self, text):
        self.tab.fill("#prompt", text)
        self.tab.press("#prompt", "Enter")

    def ask(self, text):
        """The whole answer."""
        before = self.tab.locator(".entry.model .entry-foot").count()
        self.send(text)
        self.tab.locator(".entry.model .entry-foot").nth(before).wait_for()
        return self.answer()

    def answer(self):
        """What the last answer says so far."""
        return self.tab.locator(".entry.model").last.locator("> .entry-text").text_content()

    def foot(self):
        return self.tab.locator(".entry-foot").last.text_content()

    def alert(self):
        """The text of the error that is shown, once there is one."""
        self.tab.wait_for_selector("#alert p")
        return self.tab.locator("#alert p").text_content()

    def posted(self):
        """The bodies of the requests so far, in their order."""
        return [each.post_data_json for each in self.requests if each.method == "POST"]

    def close(self):
        """Whatever it did, it asked this server only, and had nothing to complain about."""
        self.context.close()
        elsewhere = {each.url for each in self.requests if not each.url.startswith(self.url)}
        assert not elsewhere, elsewhere
        unexpected = [
            text for text in self.complaints if not any(part in text for part in self.allowed)
        ]
        assert not unexpected, unexpected
