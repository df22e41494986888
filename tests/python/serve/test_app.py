# SPDX-License-Identifier: Apache-2.0
"""The whole application on a stand-in for the core: what operators ask, and requests at random."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from adapmoe.serve.app import open_app
from adapmoe.serve.config import Config, ConfigError
from adapmoe.serve.settings import ServeSettings
from adapmoe.settings import Settings


@pytest.fixture
def opened(fake_core, tiny_checkpoint):
    """The app on the stand-in; ended at the end of the test."""
    config = Config(tiny_checkpoint, Settings(max_sequences=2), ServeSettings(timeout=5.0))
    with open_app(config) as found:
        yield found


@pytest.fixture
def client(opened):
    with TestClient(opened.app) as found:
        yield found


def test_health_readiness_and_models(client):
    assert (client.get("/health").status_code, client.get("/ready").status_code) == (200, 200)
    [model] = client.get("/v1/models").json()["data"]
    assert model["id"] == "tiny-mixtral"
    assert client.get("/v1/models/tiny-mixtral").json() == model
    missing = client.get("/v1/models/org/other")
    assert missing.status_code == 404
    assert "'org/other' does not exist here" in missing.json()["error"]["message"]


def test_a_server_that_is_told_to_end_is_alive_but_not_ready(opened, client):
    opened.begin_drain()
    assert client.get("/ready").status_code == 503
    reply = client.post("/v1/completions", json={"model": "tiny-mixtral", "prompt": "Hello"})
    assert reply.status_code == 503
    assert "shutting down" in reply.json()["error"]["message"]


def test_metrics_are_for_prometheus(client):
    body = {"model": "tiny-mixtral", "prompt": "Hello", "max_tokens": 3, "ignore_eos": True}
    assert client.post("/v1/completions", json=body).status_code == 200
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=")
    assert "adapmoe_generated_tokens_total 3.0" in reply.text


def test_documentation_that_loads_scripts_is_not_there(client):
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_a_setting_that_does_not_fit_the_model_is_wrong_configuration(tiny_checkpoint, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("max_context=5000: expected a value between 1 and 2048")

    monkeypatch.setattr("adapmoe.llm.open_core_session", refuse)
    config = Config(tiny_checkpoint, Settings(max_context=5000), ServeSettings())
    with pytest.raises(ConfigError, match="max_context=5000"), open_app(config):
        pass


@pytest.mark.slow
def test_no_request_that_the_document_allows_is_our_fault(opened):
    schemathesis = pytest.importorskip("schemathesis", reason="pip install --group slow")
    from schemathesis.checks import not_a_server_error

    schema = schemathesis.openapi.from_asgi("/openapi.json", opened.app)
    statuses = {}

    def try_operation(operation):
        @settings(max_examples=60, suppress_health_check=list(HealthCheck))
        @given(operation.as_strategy(), st.booleans())
        def try_case(case, right_model):
            if isinstance(case.body, dict) and right_model:
                case.body |= {"model": "tiny-mixtral"}
                case.body |= {"max_tokens": 2} if "max_tokens" in case.body else {}
            reply = case.call()
            statuses.setdefault(operation.path, set()).add(reply.status_code)
            case.validate_response(reply, checks=[not_a_server_error])

        try_case()

    for operation in schema.get_all_operations():
        try_operation(operation.ok())
    assert 200 in statuses["/v1/completions"]  # conversations need more luck
    assert len(statuses) == 10
