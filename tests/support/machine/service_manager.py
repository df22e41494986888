# SPDX-License-Identifier: Apache-2.0
"""Stands for systemd: hears what a service says of itself."""

import socket
import time


class ServiceManager:
    """Listens for notifications at a socket in `folder`. Use as a context manager."""

    def __init__(self, folder, watchdog_s=None):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = str(folder / "notify")
        self._socket.bind(path)
        self.environment = {"NOTIFY_SOCKET": path}
        if watchdog_s is not None:
            self.environment["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._socket.close()

    def next(self, seconds=20):
        """What is said next; TimeoutError if nothing is."""
        self._socket.settimeout(seconds)
        return self._socket.recv(4096).decode()

    def signs_of_life(self, seconds):
        """How many come from now on within so many seconds."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(4096)
        except BlockingIOError:
            pass
        count, ends = 0, time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            try:
                count += self.next(left) == "WATCHDOG=1"
            except TimeoutError:
                break
        return count
