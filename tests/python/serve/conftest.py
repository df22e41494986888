# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the server's APIs."""

import anthropic
import openai
import pytest

from support.core.fake_service import FakeService, client_of


@pytest.fixture
def service(open_llm):
    return FakeService(open_llm(max_context=2048))


@pytest.fixture
def http(service):
    return client_of(service)


@pytest.fixture
def client(http):
    """The official client of OpenAI's APIs."""
    return openai.OpenAI(
        api_key="unused", base_url="http://testserver/v1", http_client=http, max_retries=0
    )


@pytest.fixture
def claude(http):
    """The official client of Anthropic's API."""
    return anthropic.Anthropic(
        api_key="unused", base_url="http://testserver", http_client=http, max_retries=0
    )
