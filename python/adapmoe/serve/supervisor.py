# SPDX-License-Identifier: Apache-2.0
"""Tells a service manager how the server is: systemd's protocol, sd_notify(3).

Datagrams of lines NAME=value go to the socket that $NOTIFY_SOCKET names. Without that variable
nothing is sent.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping

_log = logging.getLogger("adapmoe.serve")

_FEEDS = 4  # signs of life in the time after which systemd takes the server for hung


class Supervisor:
    """Who started the server and restarts it, if that is systemd or speaks its protocol."""

    def __init__(
        self, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`environment`: what NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID are read from."""
        path = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        if path and path[0] not in "/@":
            _log.warning("NOTIFY_SOCKET=%s is no path: nobody is told how the server is", path)
            self._address = ""
        self._clock = clock
        self._feed_s = _watchdog_s(environment) / _FEEDS  # 0: nobody watches
        self._fed_at = clock()
        self._pulse: object = None

    def status(self, text: str) -> None:
        """One line for people, which `systemctl status` shows."""
        self._send(f"STATUS={text}")

    def ready(self, url: str) -> None:
        """Requests are answered from now on."""
        self._send(f"READY=1\nSTATUS=serving at {url}")
        self._fed_at = self._clock()

    def stopping(self) -> None:
        """The server was told to end; running answers may still take a while."""
        self._send("STOPPING=1\nSTATUS=finishing running answers")

    def feed(self, pulse: object) -> None:
        """Give a sign of life if one is due. To be called several times a second.

        Args:
            pulse: changes whenever a request gets on; None while there is nothing to do. No sign
                is given while it stays as it is, whatever else the server still does.
        """
        now = self._clock()
        if not self._feed_s or now - self._fed_at < self._feed_s:
            return
        if pulse is not None and pulse == self._pulse:
            return
        self._pulse, self._fed_at = pulse, now
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)  # a full queue must not stop the server
                sender.connect(self._address)
                sender.send(message.encode())
        except OSError as error:
            _log.warning("systemd was not told %r: %s", message, error.strerror)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """Seconds without a sign of life that this process may have; 0: any."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0  # meant for the process that started this one
    try:
        return max(int(environment.get("WATCHDOG_USEC", "0")), 0) / 1e6
    except ValueError:
        return 0.0
