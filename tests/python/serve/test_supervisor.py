# SPDX-License-Identifier: Apache-2.0
"""What the server tells systemd, heard by a socket of the test's own."""

import os
import socket

import pytest

from adapmoe.serve.supervisor import Supervisor


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket and the name that a service knows it by."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@adapmoe-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0"))
        listener.setblocking(False)
        yield listener, name


def heard(listener):
    messages = []
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_it_says_what_the_server_does_in_systemds_words(manager):
    listener, name = manager
    told = Supervisor({"NOTIFY_SOCKET": name})
    told.status("opening mixtral.adapmoe")
    told.ready("http://127.0.0.1:8000")
    told.stopping()
    assert heard(listener) == [
        "STATUS=opening mixtral.adapmoe",
        "READY=1\nSTATUS=serving at http://127.0.0.1:8000",
        "STOPPING=1\nSTATUS=finishing running answers",
    ]


def test_the_watchdog_is_fed_while_idle_and_while_requests_get_on(manager):
    listener, name = manager
    clock = Clock()
    told = Supervisor({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "8000000"}, clock)
    fed = []
    for second, pulse in enumerate([None, None, 7, 9, 9, 9, 9, 10, None, None]):
        clock.now = 100.0 + 2 * (second + 1)  # a quarter of the eight seconds
        told.feed(pulse)
        fed.append(len(heard(listener)))
    #      idle, idle, new, new, hung..., on again, idle
    assert fed == [1, 1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_signs_are_no_more_frequent_than_wanted(manager):
    listener, name = manager
    clock = Clock()
    told = Supervisor({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "8000000"}, clock)
    for tick in range(100):  # ten seconds
        clock.now = 100.0 + tick / 10
        told.feed(tick)
    assert heard(listener) == ["WATCHDOG=1"] * 4


def test_progress_just_before_a_sign_is_due_is_not_taken_for_a_hang(manager):
    listener, name = manager
    clock = Clock()
    told = Supervisor({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "8000000"}, clock)
    clock.now += 2
    told.feed(1)
    clock.now += 1.9
    told.feed(2)
    clock.now += 0.2
    told.feed(2)
    assert heard(listener) == ["WATCHDOG=1"] * 2


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "-5"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_watches(manager, environment):
    listener, name = manager
    clock = Clock()
    told = Supervisor({"NOTIFY_SOCKET": name, **environment}, clock)
    clock.now += 1000
    told.feed(None)
    assert heard(listener) == []


def test_without_a_manager_nothing_is_sent(caplog):
    for environment in ({}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000000"}):
        told = Supervisor(environment)
        told.ready("http://127.0.0.1:1")
        told.feed(None)
    assert not caplog.records


@pytest.mark.parametrize("name", ["notify", "vsock:2:1234", "/nowhere/notify", "@nobody-listens"])
def test_a_socket_that_nobody_hears_is_logged_and_ends_nothing(name, caplog):
    Supervisor({"NOTIFY_SOCKET": name}).ready("http://127.0.0.1:1")
    assert len(caplog.records) == 1


def test_a_manager_that_does_not_listen_never_stops_the_server(manager, caplog):
    _, name = manager
    told = Supervisor({"NOTIFY_SOCKET": name})
    for _ in range(2000):  # far more than the socket's queue takes
        told.status("x" * 1000)
    assert "was not told" in caplog.text
