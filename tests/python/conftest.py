# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the package without the compiled core."""

import functools

import pytest

import adapmoe.llm
from adapmoe.text.tokenizer import Tokenizer
from support.core.fake_session import FakeSession


@pytest.fixture(scope="session")
def tokenizer(tiny_checkpoint):
    return Tokenizer.from_pack(tiny_checkpoint)


@pytest.fixture
def fake_core(monkeypatch):
    """Let every LLM run on a FakeSession; call it to give the fake a script or an interrupt."""

    def install(**settings):
        monkeypatch.setattr(
            adapmoe.llm, "open_core_session", functools.partial(FakeSession, **settings)
        )

    install()
    return install


@pytest.fixture
def open_llm(fake_core, tiny_checkpoint):
    """Open LLMs on the fake, and close them at the end of the test."""
    opened = []

    def make(core=None, path=tiny_checkpoint, **options):
        fake_core(**(core or {}))
        llm = adapmoe.LLM(path, **options)
        opened.append(llm)
        return llm

    yield make
    for llm in opened:
        llm.close()
