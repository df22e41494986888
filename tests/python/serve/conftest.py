# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the server's APIs."""

import pytest

from support.core.fake_service import FakeService, client_of
from support.core.server_process import Running


@pytest.fixture
def service(open_llm):
    return FakeService(open_llm(max_context=2048))


@pytest.fixture
def http(service):
    return client_of(service)


@pytest.fixture
def client(http):
    """The official client of OpenAI's APIs."""
    import openai  # these two take seconds to load

    return openai.OpenAI(
        api_key="unused", base_url="http://testserver/v1", http_client=http, max_retries=0
    )


@pytest.fixture
def claude(http):
    """The official client of Anthropic's API."""
    import anthropic

    return anthropic.Anthropic(
        api_key="unused", base_url="http://testserver", http_client=http, max_retries=0
    )


@pytest.fixture
def running():
    """Start servers; all are ended."""
    started = []

    def start(**settings):
        started.append(Running(**settings))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.communicate()
