# SPDX-License-Identifier: Apache-2.0
"""`adapmoe serve` as a process, and what its clients and its operator see of it."""

import os
import signal
import subprocess
import sys
import time

import httpx
from prometheus_client.parser import text_string_to_metric_families


class Server:
    """A running server of a pack. Use as a context manager; at the end it must exit with 0."""

    def __init__(self, pack, *options, environment=None, port=0, group=None):
        """`group`: a `MemoryCgroup` to run in."""
        command = [sys.executable, "-m", "adapmoe.serve", pack, "--port", port, *options]
        command = [str(word) for word in command]
        self.process = subprocess.Popen(
            command if group is None else group.command(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        line = self.process.stdout.readline()
        if "is served at" not in line:
            _, complaints = self.process.communicate()
            raise AssertionError(line + complaints)
        self.model, _, self.url = line.strip().partition(" is served at ")
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url, timeout=60)
        self._clients = [self.http]

    def openai(self, **options):
        import openai  # the clients take seconds to load

        options = {"api_key": "none", "max_retries": 0, **options}
        return self._client(openai.OpenAI(base_url=f"{self.url}/v1", **options))

    def openai_async(self, **options):
        import openai

        options = {"api_key": "none", "max_retries": 0, **options}
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", **options)

    def anthropic(self, **options):
        import anthropic

        options = {"api_key": "none", "max_retries": 0, **options}
        return self._client(anthropic.Anthropic(base_url=self.url, **options))

    def _client(self, client):
        self._clients.append(client)
        return client

    def complete(self, prompt, max_tokens, **options):
        """A greedy completion: (status, body)."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        reply = self.http.post("/v1/completions", json=body | options)
        return reply.status_code, reply.json()

    def metric(self, name, **labels):
        """The value of a sample of /metrics, 0 if there is none yet."""
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                if sample.name == f"adapmoe_{name}" and sample.labels == labels:
                    return sample.value
        return 0

    def wait_for(self, condition, seconds=20):
        ends = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < ends, "this never became true"
            time.sleep(0.02)

    def stop(self, number=signal.SIGTERM):
        """End it; return its exit code and what it wrote."""
        for client in self._clients:
            client.close()
        try:
            self.process.send_signal(number)  # nothing, if it has ended
            out, complaints = self.process.communicate(timeout=60)
            return self.process.returncode, out, complaints
        finally:
            self.process.kill()
            self.process.communicate()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        code, _, complaints = self.stop()
        assert kind is not None or code == 0, complaints
