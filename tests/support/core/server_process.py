# SPDX-License-Identifier: Apache-2.0
"""The small server as a process, and raw requests to it."""

import json
import os
import socket
import subprocess
import sys

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
STREAM = b"GET /stream?lines=%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: localhost\r\n"

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


class Running:
    """A server process."""

    def __init__(self, *, environment=None, **settings):
        command = [sys.executable, "-m", "support.core.small_server"]
        self.process = subprocess.Popen(
            [*command, json.dumps({"port": 0, **settings}, allow_nan=False)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**ENVIRONMENT, **(environment or {})},
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


def read_to_end(client):
    """All that comes until the server closes the connection."""
    data = b""
    try:
        while more := client.recv(1 << 16):
            data += more
    except ConnectionResetError:
        pass
    return data
