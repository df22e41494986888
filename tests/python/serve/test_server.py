# SPDX-License-Identifier: Apache-2.0
"""The server as a process: signals, hostile clients, many connections, TLS."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from adapmoe.serve import connection
from adapmoe.serve.config import ConfigError
from adapmoe.serve.connection import Connection
from adapmoe.serve.server import ServeError, bind, find_address, load_tls
from adapmoe.serve.settings import ServeSettings

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
SECRET = "0123456789abcdef"


class Running:
    """A server process."""

    def __init__(self, **settings):
        command = [sys.executable, "-m", "support.core.small_server"]
        self.process = subprocess.Popen(
            [*command, json.dumps({"port": 0, **settings}, allow_nan=False)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert self.event() == "app begins", self.end()
        self.url = self.event().removeprefix("ready ")
        self.port = int(self.url.rpartition(":")[2])

    def event(self):
        """The next line it prints, "" if it has ended."""
        return self.process.stdout.readline().strip()

    def connect(self, data=b""):
        found = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        found.sendall(data)
        return found

    def end(self):
        """Exit code, what it printed since, and what it complained about."""
        try:
            out, err = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
        return self.process.returncode, out.split("\n")[:-1], err

    def stop(self):
        self.process.terminate()
        return self.end()


@pytest.fixture(scope="module")
def shared():
    """A server with tight limits that several tests use; it must live to the end."""
    server = Running(header_timeout=0.5, max_body="1MiB")
    yield server
    code, out, _ = server.stop()
    assert (code, out[-3:]) == (0, ["drain", "app ends", "closed"])


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


def read_to_end(client):
    """All that comes until the server closes the connection."""
    data = b""
    try:
        while more := client.recv(1 << 16):
            data += more
    except ConnectionResetError:
        pass
    return data


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM = b"GET /stream?lines=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_it_listens_at_a_free_port_and_answers(shared):
    found = httpx.post(shared.url, content=b"hello")
    assert (found.status_code, found.text) == (200, " sent 5 bytes")
    assert "server" not in found.headers
    assert shared.url.startswith("http://127.0.0.1:")


POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
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


def test_sighup_reads_the_keys_again(running, tmp_path):
    path = key_file(tmp_path, f"alice:{SECRET}")
    server = running(keys=str(path))

    def status(secret):
        return httpx.get(server.url, headers={"x-api-key": secret}).status_code

    assert (status(SECRET), status("new" + SECRET)) == (200, 401)
    for content, expected in [("bob:new" + SECRET, (401, 200)), ("broken", (401, 200))]:
        key_file(tmp_path, content)
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr.readline().startswith("the API keys ")
        assert (status(SECRET), status("new" + SECRET)) == expected
    assert httpx.get(server.url + "/health").status_code == 200


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """(certificate, key), self-signed for localhost."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("making a certificate needs the program openssl")
    folder = tmp_path_factory.mktemp("tls")
    request = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    paths = folder / "cert.pem", folder / "key.pem"
    files = ["-out", paths[0], "-keyout", paths[1]]
    subprocess.run([openssl, *request.split(), *files], check=True, capture_output=True)
    return tuple(map(str, paths))


def test_tls(running, certificate):
    cert, key = certificate
    server = running(tls_cert=cert, tls_key=key, header_timeout=0.5)
    assert server.url.startswith("https://127.0.0.1:")
    trusting = ssl.create_default_context(cafile=cert)
    assert httpx.get(server.url, verify=trusting).status_code == 200
    began = time.monotonic()
    with server.connect() as silent:  # no handshake
        assert read_to_end(silent) == b""
    assert 0.4 < time.monotonic() - began < 5
    with server.connect(GET) as plain:
        assert b"200" not in read_to_end(plain)
    code, out, _ = server.stop()
    assert (code, out) == (0, ["drain", "app ends", "closed"])


def test_files_for_tls_that_do_not_do_are_named(certificate, tmp_path):
    cert, key = certificate
    other = tmp_path / "other.pem"
    other.write_text("no key")
    for settings, message in [
        ({"tls_cert": cert}, "tls_key and tls_cert need each other"),
        ({"tls_cert": cert, "tls_key": "/none"}, "/none: cannot be read for TLS: No such file"),
        ({"tls_cert": cert, "tls_key": str(other)}, f"{other}: not a certificate and its key"),
        ({"tls_cert": key, "tls_key": key}, "not a certificate and its key"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_tls(ServeSettings(**settings))
    assert load_tls(ServeSettings()) is None


def test_an_encrypted_key_is_refused_instead_of_asked_for(certificate, tmp_path):
    cert, key = certificate
    locked = str(tmp_path / "locked.pem")
    command = ["openssl", "ec", "-aes128", "-passout", "pass:abcd", "-in", key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ConfigError, match="its key, not encrypted"):
        load_tls(ServeSettings(tls_cert=cert, tls_key=locked))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_listening_beyond_this_machine_needs_keys(host):
    with pytest.raises(ConfigError, match=r"other machines could use .* name a file of API keys"):
        find_address(ServeSettings(host=host))
    assert find_address(ServeSettings(host=host, keys="file"))[1] == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_none(host):
    assert find_address(ServeSettings(host=host))[1] in (host, "127.0.0.1")


@pytest.mark.parametrize("host", ["a..b", "no such host", "x" * 300])
def test_a_host_that_is_none_is_named(host):
    with pytest.raises(ConfigError, match="is neither an address nor a name of this machine"):
        find_address(ServeSettings(host=host))


def test_a_port_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServeError, match=f"cannot listen at 127.0.0.1, port {port}: Address"):
            bind(ServeSettings(port=port))


def test_an_address_of_another_machine_is_an_error():
    with pytest.raises(ServeError, match=r"cannot listen at 192.0.2.1, port 0: Cannot assign"):
        bind(ServeSettings(host="192.0.2.1", port=0, keys="file"))


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
