# SPDX-License-Identifier: Apache-2.0
"""An engine of the server on a stand-in for the core, and what tests ask of it."""

import asyncio
from contextlib import contextmanager

import numpy as np

from adapmoe import SamplingParams
from adapmoe.serve.engine import Engine
from adapmoe.serve.metrics import Metrics
from adapmoe.serve.service import Ask

LIMITS = {"max_queue": 8, "timeout_s": 60.0, "gap_s": 0.5}


@contextmanager
def running(open_llm, core=None, limits=None, **options):
    """A model and an engine; `core`: settings of the stand-in for the core."""
    llm = open_llm(core, **{"max_sequences": 2, "prefill_chunk": 16, **options})
    engine = Engine(llm, Metrics(llm), **LIMITS | (limits or {}))
    try:
        yield llm, engine
    finally:
        engine.stop()
        assert llm.free_sequences == llm.max_sequences


def ids(*tokens):
    return np.array([1, *tokens], np.int32)


def ask(prompt, count=5, choices=1, key="", **params):
    seed = params.pop("seed", None)
    made = (
        SamplingParams(max_tokens=count, seed=None if seed is None else seed + at, **params)
        for at in range(choices)
    )
    return Ask(prompt, tuple(made), key)


def answer_to(engine, *asks):
    return engine.answer(asks)


async def tokens_of(answer):
    async for _ in answer:
        pass
    return [result.token_ids for result in answer.results]


def alone(open_llm, prompt, count=5, **params):
    return open_llm().generate(prompt, max_tokens=count, **params).token_ids


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("this never became true")


def metric(llm_metrics, name, **labels):
    return llm_metrics.registry.get_sample_value(name, labels)


def fail_for(llm, wanted, error):
    """Let steps that contain a sequence with the token `wanted` raise."""
    step = llm._session.step

    def failing(items):
        for sequence, new, _ in items:
            if wanted in sequence.history or wanted in new.tolist():
                raise error
        return step(items)

    llm._session.step = failing
    return lambda: setattr(llm._session, "step", step)
