# SPDX-License-Identifier: Apache-2.0
"""A client of the service: requests in plain HTTP."""

import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import unit

PACK = next(Path("/var/lib/adapmoe").glob("*.adapmoe"))
MODEL = PACK.stem
URL = "http://127.0.0.1:8000"
PROMPT = "The function returns"
TOKENS = 3 if unit.EMULATED else 8


def _request(path, body=None, key=None):
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.Request(URL + path, data, headers)


def get(path, key=None):
    with urllib.request.urlopen(_request(path, key=key), timeout=120) as answer:
        return answer.read().decode()


def status(path, key=None):
    """The HTTP status of a path; 0 if nobody listens."""
    try:
        get(path, key)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    return 200


def metric(name):
    """The sum of a metric's samples; an AssertionError if there is none."""
    found = [
        float(line.rpartition(" ")[2])
        for line in get("/metrics").splitlines()
        if line.startswith((f"{name} ", f"{name}{{"))
    ]
    assert found, f"no {name} in /metrics"
    return sum(found)


def complete(prompt=PROMPT, tokens=TOKENS, key=None, seconds=600):
    """The text of a completion, always the same for a prompt."""
    with urllib.request.urlopen(_body(prompt, tokens, key), timeout=seconds) as answer:
        return json.load(answer)["choices"][0]["text"]


def _body(prompt, tokens, key=None, **more):
    body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, **more}
    return _request("/v1/completions", body, key)


class Stream(threading.Thread):
    """A streamed completion that is read in a thread; `chunks` grows, `error` is its end if bad."""

    def __init__(self, tokens, prompt=PROMPT):
        super().__init__(daemon=True)
        self.chunks = []
        self.finished = None
        self.error = None
        self.ended_at = None
        self._request = _body(prompt, tokens, stream=True)
        self.start()

    def run(self):
        try:
            with urllib.request.urlopen(self._request, timeout=600) as answer:
                for line in answer:
                    self._take(line.decode().strip())
        except Exception as error:
            self.error = error
        self.ended_at = time.monotonic()

    def _take(self, line):
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            assert "error" not in event, event
            choice = event["choices"][0]
            self.chunks.append(choice["text"])
            self.finished = choice["finish_reason"] or self.finished

    @property
    def text(self):
        return "".join(self.chunks)
