# SPDX-License-Identifier: Apache-2.0
"""The web application: all routes, on an open model and its engine."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from adapmoe.errors import AdapmoeError
from adapmoe.llm import LLM
from adapmoe.machine.pressure import MemoryWatch
from adapmoe.serve import chat, completions, messages, page, responses, viewers
from adapmoe.serve.activity import Activity
from adapmoe.serve.config import Config, ConfigError
from adapmoe.serve.constraint import Constraints
from adapmoe.serve.delivery import Answer
from adapmoe.serve.engine import Engine
from adapmoe.serve.errors import install_errors, wrong_model
from adapmoe.serve.metrics import Metrics
from adapmoe.serve.neighbour import Neighbour, NeighbourFacts
from adapmoe.serve.service import Ask, Service
from adapmoe.serve.start import OpenApp
from adapmoe.serve.viewers import Viewers

_log = logging.getLogger("adapmoe.serve")


@dataclass(frozen=True)
class _Service:
    """What the APIs need; see `Service`."""

    llm: LLM
    model_name: str
    constraints: Constraints
    max_prompt: int
    engine: Engine

    def answer(self, asks: Sequence[Ask]) -> Answer:
        return self.engine.answer(asks)


@contextmanager
def open_app(config: Config) -> Iterator[OpenApp]:
    """Open the pack and start the engine; both end with the context.

    Raises:
        PackError: the pack cannot be used, or has no tokenizer.
        ConfigError: a setting does not fit the model.
        AdapmoeError: as `LLM`.
    """
    limits = config.serve
    with _open(config) as llm, _neighbour(llm, limits.keep_free_bytes) as neighbour:
        _try(llm)
        constraints = Constraints(config.pack, llm.vocab_size, llm.tokenizer.eos_ids)
        metrics = Metrics(llm)
        engine = Engine(
            llm,
            metrics,
            max_queue=limits.max_queue,
            timeout_s=limits.timeout,
            gap_s=limits.token_gap,
        )
        max_prompt = min(limits.max_prompt or llm.max_context, llm.max_context)
        service = _Service(llm, config.model_name, constraints, max_prompt, engine)
        try:
            activity = _activity(llm, metrics, neighbour, limits.max_queue)
            app = make_app(service, engine, metrics, activity)
            yield OpenApp(app, engine.begin_drain, lambda: engine.alive, lambda: engine.pulse)
        finally:
            engine.stop()


def _open(config: Config) -> LLM:
    try:
        return LLM(config.pack, **vars(config.settings))
    except AdapmoeError:
        raise
    except ValueError as error:  # such as a context that this model does not have
        raise ConfigError(str(error)) from error


def _try(llm: LLM) -> None:
    """See that the model answers, before anybody is told that the server is there."""
    sequence = llm.new_sequence()
    try:
        sequence.prefill([min(llm.tokenizer.eos_ids, default=0)])
    finally:
        sequence.close()


@contextmanager
def _neighbour(llm: LLM, keep_free: int) -> Iterator[Neighbour | None]:
    """Watch the memory meanwhile, where that is wanted and memory can be given back."""
    if not keep_free:
        yield None
        return
    if llm.pins_memory:
        _log.warning(
            "keep_free does nothing here: %s holds all memory that it may use", llm.backend
        )
        yield None
        return
    neighbour = Neighbour(llm, MemoryWatch(keep_free), keep_free)
    neighbour.start()
    try:
        yield neighbour
    finally:
        neighbour.stop()


def _activity(llm: LLM, metrics: Metrics, neighbour: Neighbour | None, max_queue: int) -> Activity:
    """What the page shows, with the memory beside the server, which `/metrics` tells, too."""

    def facts() -> NeighbourFacts | None:
        return None if neighbour is None else neighbour.facts

    metrics.watch_memory(facts)
    return Activity(llm, metrics, facts, max_queue=max_queue)


def make_app(service: Service, engine: Engine, metrics: Metrics, activity: Activity) -> FastAPI:
    """The application. It has no pages of documentation: those load scripts from elsewhere."""
    app = FastAPI(
        title="AdapMoE",
        summary="A Mixture-of-Experts model, under a memory ceiling.",
        docs_url=None,
        redoc_url=None,
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    install_errors(app)
    for api in (chat, completions, responses, messages):
        app.include_router(api.router(service))
    app.include_router(page.router())
    app.include_router(viewers.router(Viewers(activity.event, lambda: engine.takes_requests)))
    started = datetime.now(timezone.utc)

    @app.get("/v1/models", tags=["OpenAI", "Anthropic"])
    async def models() -> dict[str, Any]:
        """The model that is served."""
        found = _describe(service.model_name, started)
        ends = {"first_id": found["id"], "last_id": found["id"], "has_more": False}
        return {"object": "list", "data": [found], **ends}

    @app.get("/v1/models/{model:path}", tags=["OpenAI", "Anthropic"], responses={404: {}})
    async def one_model(model: str) -> dict[str, Any]:
        """The model that is served, by its name."""
        if model != service.model_name:
            raise wrong_model(model, service.model_name)
        return _describe(model, started)

    @app.get("/health", tags=["Operation"], responses={503: {}})
    async def health() -> Response:
        """Whether the server can do anything at all; if not, restart it."""
        return _status(ok=engine.alive, good="ok", bad="the engine has ended")

    @app.get("/ready", tags=["Operation"], responses={503: {}})
    async def ready() -> Response:
        """Whether the server takes requests."""
        return _status(ok=engine.takes_requests, good="ready", bad="shutting down")

    @app.get("/metrics", tags=["Operation"])
    async def prometheus() -> Response:
        """Everything that Prometheus may want to know."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _describe(name: str, started: datetime) -> dict[str, Any]:
    """A model with the keys that OpenAI's clients want, and those of Anthropic's."""
    return {
        "id": name,
        "object": "model",
        "created": int(started.timestamp()),
        "owned_by": "adapmoe",
        "type": "model",
        "display_name": name,
        "created_at": started.isoformat(timespec="seconds"),
    }


def _status(*, ok: bool, good: str, bad: str) -> Response:
    return JSONResponse({"status": good if ok else bad}, 200 if ok else 503)
