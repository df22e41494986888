# SPDX-License-Identifier: Apache-2.0
"""What one child process of the pairing does: open a model, feed it token ids, time it.

The same code drives both sides; it runs in the peer's environment too, so it needs NumPy only.
A job is JSON: `task` ("decode", "prefill", "first_token" or "agreement"), `ids`, `prompt`,
`warm_up`, `context`, `threads`, and what the side itself needs to open the model.
"""

import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Engine(Protocol):
    """A model that was opened, with one sequence."""

    def prefill(self, ids: list[int]) -> np.ndarray:
        """Logits of the last position, float32 [vocab_size]."""

    def decode(self, token_id: int) -> np.ndarray:
        """The same, after one more token."""

    def clear(self) -> None:
        """Forget all tokens."""

    def begin(self) -> None:
        """What comes now is measured."""

    def facts(self) -> dict[str, Any]:
        """What else belongs into the report."""

    def routing(self) -> np.ndarray:
        """Experts chosen, ascending: int [decoded tokens, layers, top_k]; needs `record`."""


def bytes_read() -> int:
    """From the disk by this process so far, page faults and O_DIRECT alike."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


def negative_log_likelihood(logits: list[np.ndarray], targets: list[int]) -> float:
    """Mean over the positions, in nats."""
    rows = np.array(logits, np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    picked = rows[np.arange(len(rows)), targets]
    return float(np.mean(np.log(np.exp(rows).sum(axis=1)) - picked))


def decode(engine: Engine, job: dict[str, Any]) -> dict[str, Any]:
    """Prompt and warm-up untimed, then every id of the rest but the last, which is a target."""
    ids, prompt, warm_up = job["ids"], job["prompt"], job["warm_up"]
    engine.prefill(ids[:prompt])
    for token in ids[prompt : prompt + warm_up]:
        engine.decode(token)
    measured, logits, steps = ids[prompt + warm_up : -1], [], []
    engine.begin()
    read = [bytes_read()]
    for token in measured:
        began = time.perf_counter()
        logits.append(engine.decode(token))
        steps.append(time.perf_counter() - began)
        read.append(bytes_read())
    return {
        "tokens_per_s": len(measured) / sum(steps),
        "slowest_step_s": max(steps),
        "bytes_per_token": (read[-1] - read[0]) / len(measured),
        "bytes_of_tokens": [after - before for before, after in itertools.pairwise(read)],
        "nll": negative_log_likelihood(logits, ids[prompt + warm_up + 1 :]),
    }


def prefill(engine: Engine, job: dict[str, Any]) -> dict[str, Any]:
    """Once untimed with the first `warm_up` ids, then the prompt."""
    if job["warm_up"]:
        engine.prefill(job["ids"][: job["warm_up"]])
        engine.clear()
    engine.begin()
    before, began = bytes_read(), time.perf_counter()
    engine.prefill(job["ids"][: job["prompt"]])
    seconds = time.perf_counter() - began
    return {
        "tokens_per_s": job["prompt"] / seconds,
        "bytes_per_token": (bytes_read() - before) / job["prompt"],
    }


def agreement(engine: Engine, job: dict[str, Any]) -> dict[str, Any]:
    """Every id decoded by itself; logits and routing go into the file `arrays`."""
    logits = [engine.decode(token) for token in job["ids"][:-1]]
    np.savez(job["arrays"], logits=np.array(logits), routing=engine.routing())
    return {"nll": negative_log_likelihood(logits, job["ids"][1:])}


TASKS = {"decode": decode, "prefill": prefill, "agreement": agreement}


def main(open_engine) -> None:
    """Do the job that stands in stdin and print the report; `open_engine(job)` is an Engine."""
    job = json.load(sys.stdin)
    before, began = bytes_read(), time.perf_counter()
    engine = open_engine(job)
    engine.begin()
    report: dict[str, Any] = {"open_s": time.perf_counter() - began}
    if job["task"] == "first_token":
        first = int(engine.prefill(job["ids"][: job["prompt"]]).argmax())
        report |= {"first_token_s": time.perf_counter() - began, "first_token": first}
        report["bytes_to_first_token"] = bytes_read() - before
    else:
        report |= TASKS[job["task"]](engine, job)
    print(json.dumps(report | engine.facts()))
