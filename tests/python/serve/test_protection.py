# SPDX-License-Identifier: Apache-2.0
"""What a request must pass before the APIs see it."""

import asyncio
import json
import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.serve.protection import (
    BodyLimit,
    HostCheck,
    bytes_for_bodies,
    parse_host,
    protect,
)
from adapmoe.serve.settings import ServeSettings

KEYS = {"secret-of-alice-1": "alice", "secret-of-bob-123": "bob"}


class Echo:
    """Answers with what it saw, and counts requests."""

    def __init__(self):
        self.calls = 0

    async def __call__(self, scope, receive, send):
        self.calls += 1
        body, more = b"", True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            body += message["body"]
            more = message["more_body"]
        text = json.dumps({"key": scope["state"]["key"], "body": body.decode()}, allow_nan=False)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
def ask(echo):
    """Send one request through all checks."""

    def send(path="/v1/models", headers=(), content=None, find_key=None, method=None, **settings):
        app = protect(echo, ServeSettings(**settings), find_key)

        async def run():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport) as client:
                return await client.request(
                    method or ("GET" if content is None else "POST"),
                    f"http://localhost:8000{path}",
                    headers=dict(headers),
                    content=content,
                )

        return asyncio.run(run())

    return send


ALLOWED = [
    "localhost",
    "LocalHost.:80",
    "127.0.0.1:8000",
    "[::1]:8000",
    "[0:0::1]",
    "192.168.1.7:8000",
    socket.gethostname().upper(),
    socket.gethostname().partition(".")[0] + ".local:8000",
    "jetson.example",
]


@pytest.mark.parametrize("host", ALLOWED)
def test_own_names_and_addresses_are_allowed(ask, host):
    assert ask(headers={"host": host}, host="jetson.example").status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil-localhost", 403),
        ("evil.local", 403),
        ("local", 403),
        (".local", 403),
        ("0x7f.1", 403),
        ("", 400),
        (":8000", 400),
        ("localhost:port", 400),
        ("a@localhost", 400),
        ("localhost/", 400),
        ("[::1", 400),
        ("::1", 400),
        ("local host", 400),
        ("localhost, evil.example", 400),
    ],
)
def test_other_names_are_refused(ask, echo, host, status):
    found = ask(headers={"host": host})
    assert found.status_code == status
    assert found.json()["error"]["type"] == "invalid_request_error"
    assert echo.calls == 0


def test_listed_hosts_are_allowed_besides_what_no_web_page_can_be_called(ask):
    listed = {"allowed_hosts": ["Box.Example", "[0::7]"]}
    for host, status in [
        ("box.example:1", 200),
        ("other.example", 403),
        ("[::7]", 200),
        ("[::1]", 200),
        ("127.0.0.1:8000", 200),
        ("10.1.2.3", 200),
        ("localhost", 200),
        (socket.gethostname(), 200),
    ]:
        assert ask(headers={"host": host}, **listed).status_code == status, host


def test_a_host_with_a_domain_is_called_by_its_first_name_in_multicast_dns(echo, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "Jetson.example.com")
    check = HostCheck(echo, (), "::1")
    for host, allowed in [
        ("jetson.local", True),
        ("jetson.example.com", True),
        ("jetson.example.com.local", False),
        ("example.local", False),
    ]:
        assert (host in check._names) == allowed, host


@pytest.mark.parametrize("count", [0, 2])
def test_there_must_be_one_host(echo, count):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": [(b"Host", b"localhost")] * count}
    asyncio.run(HostCheck(echo, (), "::1")(scope, None, send))
    assert sent[0]["status"] == 400


@given(st.text())
def test_any_host_is_a_name_or_refused(value):
    name = parse_host(value)
    assert name is None or (name == name.lower() and not set(name) & set("[]/@ "))
    assert name is None or parse_host(name) == name or ":" in name


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200),
        ("HTTP://LOCALHOST:8000", 200),
        ("http://localhost:3000", 403),
        ("http://localhost", 403),
        ("https://evil.example", 403),
        ("http://localhost:8000.evil.example", 403),
        ("http://localhost:8000@evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_pages_from_elsewhere_can_make_the_machine_do_nothing(ask, echo, origin, status):
    headers = {"origin": origin, "content-type": "text/plain"}
    found = ask("/v1/completions", headers, b"{}")
    assert found.status_code == status
    assert echo.calls == (status == 200)
    assert "access-control-allow-origin" not in found.headers


def test_named_origins_may_and_are_told_so(ask):
    named = {"cors": ["https://app.example"]}
    for origin, status in [("https://app.example", 200), ("https://other.example", 403)]:
        found = ask(headers={"origin": origin}, **named)
        assert found.status_code == status
        allowed = found.headers.get("access-control-allow-origin")
        assert allowed == (origin if status == 200 else None)


def test_a_preflight_needs_no_key(ask, echo):
    headers = {
        "origin": "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-stainless-os",
    }
    asked = {"headers": headers, "method": "OPTIONS", "find_key": KEYS.get}
    found = ask(cors=["https://app.example"], **asked)
    assert found.status_code == 200
    assert "authorization" in found.headers["access-control-allow-headers"]
    assert ask(**asked).status_code == 403
    assert echo.calls == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer secret-of-bob-123"},
        {"authorization": "bearer  secret-of-bob-123 "},
        {"x-api-key": "secret-of-bob-123"},
        {"authorization": "Bearer wrong", "x-api-key": "secret-of-bob-123"},
    ],
)
def test_a_key_lets_in_and_names_its_owner(ask, headers):
    found = ask("/v1/models", headers, find_key=KEYS.get)
    assert (found.status_code, found.json()["key"]) == (200, "bob")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "secret-of-bob-123"},
        {"authorization": "Basic secret-of-bob-123"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": b"Bearer \xff\xfe"},
        {"x-api-key": "bob"},
        {"x-api-key": ""},
        {"cookie": "secret-of-bob-123"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/activity", "/metrics", "/openapi.json", "/health/", "/page/"]
)
def test_without_a_key_nobody_gets_in(ask, echo, path, headers):
    found = ask(path, headers, find_key=KEYS.get)
    assert found.status_code == 401
    assert found.headers["www-authenticate"] == "Bearer"
    assert found.json()["error"]["code"] == "invalid_api_key"
    assert echo.calls == 0


def test_refusals_to_clients_of_anthropic_have_its_shape(ask):
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        found = ask(path, find_key=KEYS.get, content=b"")
        assert found.json()["type"] == "error"
        assert found.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/page/main.js"])
def test_the_state_of_the_server_and_its_page_are_no_secret(ask, path):
    assert ask(path, find_key=KEYS.get).json()["key"] == ""


def test_without_keys_everybody_is_nobody(ask):
    assert ask(headers={"x-api-key": "any"}).json()["key"] == ""


async def pieces(*parts):
    for part in parts:
        yield part


def test_a_body_may_be_as_long_as_is_allowed(ask, echo):
    for content in (b"x" * 1000, pieces(b"x" * 999, b"x")):
        found = ask("/v1/completions", content=content, max_body=1000)
        assert found.json()["body"] == "x" * 1000
    for content in (b"x" * 1001, pieces(b"x" * 999, b"xx"), pieces(*[b"x" * 10] * 200)):
        found = ask("/v1/completions", content=content, max_body=1000)
        assert found.status_code == 413
        assert "1000 B" in found.json()["error"]["message"]
    assert echo.calls == 2


def limited(echo, messages, headers=()):
    """What a limit of 5 bytes sends, and how many messages it left."""
    sent = []

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": list(headers), "state": {"key": ""}}
    asyncio.run(BodyLimit(echo, 5, 100)(scope, receive, send))
    return sent, messages


def part(body, more=True):
    return {"type": "http.request", "body": body, "more_body": more}


def test_a_body_that_says_it_is_too_long_is_not_read(echo):
    for length in (b"6", b"1" * 5000):
        sent, left = limited(echo, [part(b"x")], [(b"content-length", length)])
        assert (sent[0]["status"], len(left)) == (413, 1)


def test_a_body_is_read_no_further_than_the_limit(echo):
    sent, left = limited(echo, [part(b"xxxx"), part(b"xxxx"), part(b"x")])
    assert (sent[0]["status"], len(left)) == (413, 1)


def test_a_length_that_lies_does_not_help(echo):
    sent, _ = limited(echo, [part(b"xxxxxx", False)], [(b"content-length", b"1")])
    assert sent[0]["status"] == 413


def test_a_client_that_leaves_while_it_sends_is_forgotten(echo):
    sent, _ = limited(echo, [part(b"x"), {"type": "http.disconnect"}])
    assert (sent, echo.calls) == ([], 0)


def test_after_the_body_the_app_hears_that_a_client_leaves():
    heard = []

    async def app(scope, receive, send):
        heard.append(await receive())
        heard.append(await receive())

    limited(app, [part(b"a"), part(b"b", False), {"type": "http.disconnect"}])
    assert heard == [part(b"ab", False), {"type": "http.disconnect"}]


class Held:
    """Requests to a limit of 5 bytes, and of 12 for all, that the app holds until they are told."""

    def __init__(self):
        self.ends = asyncio.Event()
        self.fails = False
        self.limit = BodyLimit(self.app, 5, 12)
        self.tasks = []

    async def app(self, scope, receive, send):
        await receive()
        await self.ends.wait()
        if self.fails:
            raise RuntimeError("a bug")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def ask(self, *messages):
        """Statuses and headers of what was answered so far; [] while it is held."""
        waiting, sent = list(messages), []

        async def receive():
            return waiting.pop(0) if waiting else await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "path": "/", "headers": []}
        self.tasks.append(asyncio.create_task(self.limit(scope, receive, send)))
        for _ in range(5):
            await asyncio.sleep(0)
        return [(m["status"], dict(m["headers"])) for m in sent if "status" in m]

    async def end(self):
        """All of them."""
        self.ends.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.ends.clear()
        self.tasks.clear()


def test_bodies_together_may_be_as_long_as_is_allowed():
    async def run():
        held = Held()
        for _ in range(2):  # the second time: all room is free again
            assert await held.ask(part(b"xxxxx", False)) == []
            assert await held.ask(part(b"xxxxx")) == []  # is still being sent
            [(status, headers)] = await held.ask(part(b"xx"), part(b"x", False))
            assert (status, headers[b"retry-after"]) == (503, b"1")
            assert await held.ask(part(b"xx", False)) == []
            [(status, _)] = await held.ask(part(b"x", False))
            assert status == 503
            assert await held.ask(part(b"", False)) == []
            held.tasks.pop(1).cancel()
            await held.end()

    asyncio.run(run())


def test_room_for_bodies_is_free_again_however_a_request_ends():
    async def run():
        held = Held()
        for _ in range(10):
            assert await held.ask(part(b"xxxx"), {"type": "http.disconnect"}) == []
            [(status, _)] = await held.ask(part(b"xxxxx"), part(b"x"))
            assert status == 413
            held.fails = True
            assert await held.ask(part(b"xxxx", False)) == []
            await held.end()
            assert await held.ask(part(b"xxxx", False)) == []
            held.tasks[0].cancel()
            await held.end()
        assert held.limit._free == 12

    asyncio.run(run())


def test_there_is_room_for_eight_bodies_and_for_many_short_ones():
    assert bytes_for_bodies(100 << 20) == 800 << 20
    assert bytes_for_bodies(1000) == 64 << 20


def test_the_lifespan_passes_all_checks():
    async def app(scope, receive, send):
        await send(scope)

    sent = []

    async def send(message):
        sent.append(message)

    checked = protect(app, ServeSettings(cors=["http://a"]), KEYS.get)
    asyncio.run(checked({"type": "lifespan"}, None, send))
    assert sent == [{"type": "lifespan"}]
