# SPDX-License-Identifier: Apache-2.0
"""Starts `adapmoe serve PACK`, asks for three tokens, and ends it. Prints the answer's JSON.

Usage, inside a root: ask_server.py PACK; the pack is called tiny.adapmoe.
"""

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

PORT = 8765
BODY = b'{"model": "tiny", "prompt": "The function", "max_tokens": 3, "temperature": 0}'


def ask(server: subprocess.Popen) -> str:
    """The server's answer, as soon as it gives one."""
    url = f"http://127.0.0.1:{PORT}/v1/completions"
    request = urllib.request.Request(url, BODY, {"Content-Type": "application/json"})
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > end:
                raise
        except urllib.error.URLError:
            if server.poll() is not None or time.monotonic() > end:
                raise
        time.sleep(0.2)


def main(pack: str) -> int:
    """The server's exit code."""
    words = ["adapmoe", "serve", pack, "--port", str(PORT), "--config", "/etc/adapmoe/adapmoe.toml"]
    with subprocess.Popen(words) as server:
        try:
            print(ask(server), flush=True)
        finally:
            server.send_signal(signal.SIGTERM)
        return server.wait(60)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
