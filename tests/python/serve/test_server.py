# SPDX-License-Identifier: Apache-2.0
"""The server as a process: signals, hostile clients, many connections."""

import asyncio
import contextlib
import os
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from adapmoe.serve import connection, start
from adapmoe.serve.config import Config
from adapmoe.serve.connection import Connection
from adapmoe.serve.protection import bytes_for_bodies
from adapmoe.serve.settings import ServeSettings
from adapmoe.serve.start import OpenApp
from adapmoe.settings import Settings
from support.core.server_process import GET, POST, STREAM, Running, read_to_end
from support.machine.service_manager import ServiceManager

SECRET = "0123456789abcdef"


@pytest.fixture(scope="module")
def shared():
    """A server with tight limits that several tests use; it must live to the end."""
    server = Running(header_timeout=0.5, max_body="1MiB")
    yield server
    code, out, _ = server.stop()
    assert (code, out[-3:]) == (0, ["drain", "app ends", "closed"])


def test_it_listens_at_a_free_port_and_answers(shared):
    found = httpx.post(shared.url, content=b"hello")
    assert (found.status_code, found.text) == (200, " sent 5 bytes")
    assert "server" not in found.headers
    assert shared.url.startswith("http://127.0.0.1:")


STALLS = [
    b"",
    b"GET / HT",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
    GET + b"GET / HT",
    POST + b"Content-Length: 9\r\n\r\nhalf",
    POST + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhalf",
]
DRIPS = [*STALLS[1:4], POST + b"Content-Length: 999\r\n\r\n"]


def test_a_client_that_does_not_go_on_is_cut_off(shared):
    cases = [(begin, False) for begin in STALLS] + [(begin, True) for begin in DRIPS]
    with ThreadPoolExecutor(len(cases)) as pool:
        found = list(pool.map(lambda case: _cut_off(shared, *case), cases))
    for (begin, drip), (seconds, answered) in zip(cases, found, strict=True):
        assert 0.4 < seconds < 5, (begin, drip)
        assert answered == begin.startswith(GET)


def _cut_off(server, begin, drip):
    """After how many seconds the server closed the connection, and whether it answered before."""
    began, data = time.monotonic(), b""
    with server.connect(begin) as client:
        client.settimeout(0.1)
        while time.monotonic() < began + 10:
            try:
                more = client.recv(1 << 16)
                if not more:
                    break
                data += more
            except TimeoutError:
                if drip:
                    client.sendall(b"x")
            except ConnectionError:
                break
    return time.monotonic() - began, b"HTTP/1.1 200" in data


def test_a_slow_body_that_goes_on_is_read(shared):
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4096\r\n\r\n"
    with shared.connect(head) as client:
        for _ in range(8):
            time.sleep(0.1)
            client.sendall(b"x" * 512)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client).endswith(b"sent 4096 bytes")


@pytest.mark.slow
def test_neither_long_answers_nor_pauses_between_requests_are_cut_off(shared):
    with httpx.Client(base_url=shared.url) as client:
        assert client.get("/stream?lines=13").text.split() == [str(i) for i in range(13)]
        time.sleep(0.7)
        assert client.get("/").status_code == 200
        assert len(client._transport._pool.connections) == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\xff\n\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (4 << 20),
        b"GET /" + b"x" * (4 << 20),
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_request_is_refused(shared, request_bytes):
    with shared.connect() as client:
        try:
            client.sendall(request_bytes)
        except ConnectionError:  # refused before all was sent
            pass
        else:
            assert client.recv(12) in (b"HTTP/1.1 400", b"")
    assert httpx.get(shared.url).status_code == 200


def memory_peak(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_100_mb_is_refused_and_takes_no_memory(shared, chunked):
    before = memory_peak(shared.process)
    size = 100_000_000
    content = (b"x" * 1_000_000 for _ in range(100)) if chunked else b"x" * size
    began = time.monotonic()
    found = httpx.post(shared.url, content=content, timeout=20)
    assert found.status_code == 413
    assert found.json()["error"]["code"] == "body_too_large"
    assert memory_peak(shared.process) - before < 20 << 20
    assert time.monotonic() - began < 10


def test_a_bug_of_the_app_is_one_answer(shared):
    assert httpx.get(shared.url + "/fail").status_code == 500
    assert httpx.get(shared.url).status_code == 200


def test_200_connections_at_once_are_answered(shared):
    clients = [shared.connect(GET) for _ in range(200)]
    assert [_first_answer(client) for client in clients] == ["200"] * 200
    for client in clients:
        client.close()


@pytest.mark.slow
def test_more_connections_than_allowed_are_told_to_come_back(running):
    server = running(max_connections=50)
    clients = [server.connect() for _ in range(200)]
    for client in clients:
        with contextlib.suppress(ConnectionError):
            client.sendall(GET)
    found = [_first_answer(client) for client in clients]
    assert found == ["200"] * 50 + ["503"] * 50 + [""] * 100
    for client in clients[:60]:
        client.close()
    deadline = time.monotonic() + 5
    clients[60].sendall(GET)
    while _first_answer(clients[60]) != "200":  # until it has seen that they left
        assert time.monotonic() < deadline
        clients[60].sendall(GET)
    for client in clients:
        client.close()


def _first_answer(client):
    try:
        data = client.recv(1 << 16).decode()
    except ConnectionError:
        return ""
    status = data.split(" ")[1] if data else ""
    assert status != "503" or "retry-after: 1\r\n" in data.lower()
    return status


def test_sigterm_lets_answers_finish_and_nothing_new_begin(running):
    server = running()
    with server.connect(STREAM % 20) as client, server.connect(GET) as idle:
        first = client.recv(1 << 16)
        while b"0 bytes" not in idle.recv(1 << 16):
            pass
        server.process.send_signal(signal.SIGTERM)
        assert server.event() == "drain"
        assert read_to_end(idle) == b""
        with pytest.raises(ConnectionError):
            server.connect(GET).recv(1)
        whole = first + read_to_end(client)
    assert b"\n19\n" in whole
    assert whole.endswith(b"0\r\n\r\n")
    assert server.end() == (0, ["app ends", "closed"], "")


@pytest.mark.slow
def test_answers_that_take_too_long_are_cut_off(running):
    server = running(drain=0.3)
    with server.connect(STREAM % 10_000) as client:
        assert client.recv(1 << 16)
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        read_to_end(client)
        code, out, err = server.end()
        assert 0.25 < time.monotonic() - began < 5
    assert (code, out) == (0, ["drain", "client left", "app ends", "closed"])
    assert err == "1 connections are cut off\n"


@pytest.mark.slow
def test_a_second_signal_ends_at_once(running):
    server = running(drain=60)
    with server.connect(STREAM % 10_000) as client:
        assert client.recv(1 << 16)
        server.process.send_signal(signal.SIGTERM)
        assert server.event() == "drain"
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code, out, _ = server.end()
        assert time.monotonic() - began < 5
    assert (code, out) == (0, ["client left", "app ends", "closed"])


def test_a_client_that_leaves_is_noticed(shared):
    with shared.connect(STREAM % 10_000) as client:
        assert client.recv(1 << 16)
    assert shared.event() == "client left"


def key_file(folder, content):
    path = folder / "keys"
    path.write_text(content)
    path.chmod(0o600)
    return path


@pytest.mark.slow
def test_sighup_reads_the_keys_again(running, tmp_path):
    path = key_file(tmp_path, f"alice:{SECRET}")
    server = running(keys=str(path))

    def status(secret):
        return httpx.get(f"{server.url}/stream?lines=1", headers={"x-api-key": secret}).status_code

    assert (status(SECRET), status("new" + SECRET)) == (200, 401)
    for content, expected in [("bob:new" + SECRET, (401, 200)), ("broken", (401, 200))]:
        key_file(tmp_path, content)
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr.readline().startswith("the API keys ")
        assert (status(SECRET), status("new" + SECRET)) == expected
    assert httpx.get(server.url + "/health").status_code == 200


@pytest.mark.slow
def test_sighup_without_keys_ends_nothing(running):
    server = running()
    server.process.send_signal(signal.SIGHUP)
    assert server.process.stderr.readline().startswith("SIGHUP changes nothing")
    assert httpx.get(server.url).status_code == 200
    assert server.stop() == (0, ["drain", "app ends", "closed"], "")


def test_sighup_while_the_pack_is_opened_or_closed_ends_nothing(monkeypatch):
    def hang_up():
        os.kill(os.getpid(), signal.SIGHUP)

    @contextlib.contextmanager
    def open_app(config):
        hang_up()
        yield OpenApp(None, print, lambda: True, lambda: None)
        hang_up()

    def serve(app, settings, listener, tls, hooks):
        hang_up()
        ended.append(True)

    ended = []
    monkeypatch.setattr(start, "serve", serve)
    before = signal.getsignal(signal.SIGHUP)
    try:
        settings = ServeSettings(port=0)
        start.start(Config(Path("none"), Settings(), settings), open_app, print)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended == [True]


def test_keys_that_change_while_the_pack_is_opened_count(tmp_path, monkeypatch):
    path = key_file(tmp_path, f"alice:{SECRET}")

    @contextlib.contextmanager
    def open_app(config):
        key_file(tmp_path, f"bob:new{SECRET}")
        yield OpenApp(None, print, lambda: True, lambda: None)

    found = []
    monkeypatch.setattr(start, "protect", lambda app, settings, find: found.append(find))
    monkeypatch.setattr(start, "serve", lambda *all: None)
    monkeypatch.setattr(signal, "signal", lambda *all: None)
    settings = ServeSettings(port=0, keys=str(path))
    start.start(Config(Path("none"), Settings(), settings), open_app, print)
    assert (found[0](SECRET), found[0]("new" + SECRET)) == (None, "bob")


@pytest.mark.slow
def test_a_server_whose_engine_has_ended_ends_with_an_error(running):
    server = running()
    with server.connect(STREAM % 30) as client:
        first = client.recv(1 << 16)
        assert httpx.get(server.url + "/die").text == "dead"
        began = time.monotonic()
        assert server.event() == "drain"
        assert time.monotonic() - began < 3
        whole = first + read_to_end(client)
    assert b"\n29\n" in whole
    code, out, err = server.end()
    assert (code, out) == (1, ["app ends", "closed"])
    assert err.startswith("the engine has ended: no request can be answered")
    assert "ServeError: the engine has ended; the lines above say why" in err


@pytest.mark.slow
def test_an_engine_that_ends_while_the_server_does_is_no_error(running):
    server = running()
    with server.connect(STREAM % 40) as client:
        assert client.recv(1 << 16)
        with server.connect(GET.replace(b"GET /", b"GET /die")) as last:
            server.process.send_signal(signal.SIGTERM)
            assert server.event() == "drain"
            read_to_end(last)
        read_to_end(client)
    assert server.end() == (0, ["app ends", "closed"], "")


@pytest.mark.slow
def test_bodies_of_many_connections_do_not_add_up(running):
    server = running(max_body="8MiB")
    most = b"x" * (7 << 20)
    head = POST + b"Content-Length: %d\r\n\r\n" % (8 << 20)
    clients = [server.connect(head) for _ in range(bytes_for_bodies(8 << 20) // len(most) + 1)]
    for client in clients:
        client.sendall(most)
    [answered], _, _ = select.select(clients, [], [], 10)
    assert _first_answer(answered) == "503"
    for client in clients:
        client.close()
    deadline = time.monotonic() + 5
    while httpx.post(server.url, content=most).status_code != 200:  # it has seen that they left
        assert time.monotonic() < deadline


def test_a_client_that_reads_nothing_is_cut_off(monkeypatch):
    monkeypatch.setattr(connection, "_READER_STALL_S", 0.2)
    ended = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            body = b"x" * (1 << 16)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        ended.append(await receive())

    async def run():
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        config.load()
        state = ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(
                config=config,
                server_state=state,
                app_state={},
                max_connections=9,
                header_timeout=9,
            ),
            "127.0.0.1",
        )
        async with server:
            client = socket.create_connection(server.sockets[0].getsockname())
            client.sendall(GET)
            deadline = time.monotonic() + 5
            while not ended and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
            client.close()
            return state

    state = asyncio.run(run())
    assert ended == [{"type": "http.disconnect"}]
    assert not state.connections


def test_systemd_hears_of_the_servers_whole_life(tmp_path, running):
    with ServiceManager(tmp_path, watchdog_s=0.8) as systemd:
        server = running(environment=systemd.environment)
        assert systemd.next() == "STATUS=opening none"
        assert systemd.next() == f"READY=1\nSTATUS=serving at {server.url}"
        assert 2 <= systemd.signs_of_life(1.0) <= 6
        with server.connect(STREAM % 20) as client:  # a second
            assert client.recv(100)
            server.process.terminate()
            while (said := systemd.next()) == "WATCHDOG=1":
                pass
            assert said == "STOPPING=1\nSTATUS=finishing running answers"
            assert systemd.next(0.5) == "WATCHDOG=1"  # an answer is still being given
            assert read_to_end(client).endswith(b"0\r\n\r\n")
        assert server.end()[0] == 0
