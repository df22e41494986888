# SPDX-License-Identifier: Apache-2.0
"""Where the server may listen, and how many files its connections may open."""

import resource
import socket
from pathlib import Path

import pytest

from adapmoe.serve.config import ConfigError
from adapmoe.serve.open_files import allow_open_files
from adapmoe.serve.server import ServeError, bind, find_address
from adapmoe.serve.settings import ServeSettings


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


def files_of(monkeypatch, soft, hard):
    """The limit that is set where these two hold, in a list."""
    found = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: found.append(limits))
    return found


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 524288, [(1280, 524288)]),
        (1024, -1, [(1280, -1)]),
        (1280, 1280, []),
        (1 << 20, 1 << 20, []),
        (-1, -1, []),
    ],
)
def test_the_limit_of_open_files_becomes_what_connections_need(
    soft, hard, raised, monkeypatch, caplog
):
    found = files_of(monkeypatch, soft, hard)
    allow_open_files(256)
    assert found == raised
    assert not caplog.records


def test_a_hard_limit_of_open_files_that_is_low_is_told(monkeypatch, caplog):
    found = files_of(monkeypatch, 512, 1024)
    allow_open_files(256)
    assert found == [(1024, 1024)]
    assert "256 connections should have 1280 open files, and this process may have 1024" in (
        caplog.text
    )


def test_a_hard_limit_of_open_files_that_is_too_low_is_an_error(monkeypatch):
    found = files_of(monkeypatch, 512, 1024)
    message = r"max_connections: 1000 connections need 1256 .* may have 1024; raise the hard limit"
    with pytest.raises(ConfigError, match=message):
        allow_open_files(1000)
    assert not found


@pytest.fixture
def few_files():
    """The processes that are started may open few files, but raise that; the hard limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_server_may_open_as_many_files_as_its_connections_need(running, few_files):
    limits = Path(f"/proc/{running(max_connections=300).process.pid}/limits").read_text()
    [line] = [line for line in limits.splitlines() if line.startswith("Max open files")]
    needed = 4 * 300 + 256
    expected = needed if few_files == resource.RLIM_INFINITY else min(needed, few_files)
    assert int(line.split()[3]) == expected
