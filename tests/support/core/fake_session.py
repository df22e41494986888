# SPDX-License-Identifier: Apache-2.0
"""A stand-in for adapmoe._core.Session: same interface, logits from a hash of the token history."""

import hashlib
import threading
import time
from types import SimpleNamespace

import numpy as np

from adapmoe.core_types import Registration
from adapmoe.errors import BudgetError, ClosedError, ContextOverflowError

VOCAB_SIZE = 4096  # tests/models/tiny-mixtral
LAYERS, TOP_K = 8, 2
_WANTED = {"none": slice(0, 0), "last": slice(-1, None), "all": slice(None)}


class FakeSession:
    """Deterministic. `script(history) -> token id or None` makes one token certain."""

    vocab_size = VOCAB_SIZE
    backend = "fake/none"
    reader = "pread"
    pins_memory = False
    registration = Registration(file=False, frames=0, problem="")

    def __init__(self, path, *, script=None, interrupt_after=None, step_s=0.0, notes=(), **options):
        self.path = path
        self.options = options
        self.max_context = options.get("max_context") or 512
        self.max_sequences = options.get("max_sequences", 1)
        self.notes = list(notes)
        self.script = script or (lambda history: None)
        self.interrupt_after = interrupt_after
        self.step_s = step_s
        self.open = 0
        self.closed = False
        self.lock = threading.RLock()
        self.batches = []
        self.totals = SimpleNamespace(**vars(step_stats(0)))
        self.memory_split = SimpleNamespace(
            memory_bytes=options.get("memory") or 2**30,
            dense_bytes=5 * 2**20,
            kv_bytes=2**20,
            scratch_bytes=2**20,
            expert_bytes=32 * 110592,
            tile_bytes=110592,
            frames=32,
            frames_total=64,
            floor_bytes=8 * 2**20,
            cycle_bytes=16 * 110592,
            host_bytes=0,
        )

    def new_sequence(self):
        with self.lock:
            if self.closed:
                raise ClosedError("the session is closed")
            if self.open == self.max_sequences:
                raise ValueError(f"all {self.max_sequences} sequences are in use")
            self.open += 1
            return FakeSequence(self)

    def step(self, items):
        with self.lock:
            self.batches.append([len(ids) for _, ids, _ in items])
            stats = [self.count(len(ids)) for _, ids, _ in items]
            rows = [sequence.append(ids)[_WANTED[logits]] for sequence, ids, logits in items]
            return np.concatenate(rows), stats

    def set_memory(self, memory_bytes):
        if memory_bytes < self.memory_split.floor_bytes:
            raise BudgetError(f"below the floor of {self.memory_split.floor_bytes} bytes")
        self.memory_split.memory_bytes = memory_bytes
        return self.memory_split

    def resident_set(self):
        return []

    def expert_states(self):
        """As after a token that used experts 0 and 1 of each layer."""
        states = np.zeros((LAYERS, 8), np.uint8)
        if self.batches:
            states[:, :TOP_K] = 5
        return states

    @property
    def progress(self):
        return len(self.batches) * LAYERS

    def count(self, tokens):
        """Count one step; KeyboardInterrupt instead where the test wants it."""
        time.sleep(self.step_s)
        if self.interrupt_after is not None:
            if self.interrupt_after == 0:
                raise KeyboardInterrupt
            self.interrupt_after -= 1
        stats = step_stats(tokens)
        for name, value in vars(stats).items():
            setattr(self.totals, name, getattr(self.totals, name) + value)
        return stats

    def close(self):
        with self.lock:
            assert self.open == 0, "sequences are closed before their session"
            self.closed = True


class FakeSequence:
    def __init__(self, session):
        self.session = session
        self.history = []
        self.closed = False

    @property
    def length(self):
        return len(self.history)

    def append(self, ids):
        if self.closed:
            raise ClosedError("the sequence is closed")
        if len(self.history) + len(ids) > self.session.max_context:
            raise ContextOverflowError("more tokens than max_context")
        rows = []
        for token in ids:
            self.history.append(int(token))
            rows.append(self.logits())
        return np.stack(rows)

    def logits(self):
        digest = hashlib.blake2b(str(self.history).encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(digest, "little"))
        row = rng.normal(0, 2, VOCAB_SIZE).astype(np.float32)
        certain = self.session.script(self.history)
        if certain is not None:
            row[certain] = 100.0
        return row

    def prefill(self, ids, all_logits=False):
        assert ids.dtype == np.int32
        with self.session.lock:
            stats = self.session.count(len(ids))
            rows = self.append(ids)
        return (rows if all_logits else rows[-1]), stats

    def decode(self, token_id):
        with self.session.lock:
            stats = self.session.count(1)
            return self.append([token_id])[-1], stats

    def truncate(self, length):
        if not 0 <= length <= len(self.history):
            raise ValueError(f"cannot truncate to {length} tokens")
        del self.history[length:]

    def reset(self):
        self.truncate(0)

    def fork(self, length=None):
        copy = self.session.new_sequence()
        copy.history = self.history[:length]
        return copy

    def close(self):
        with self.session.lock:
            assert not self.closed
            self.closed = True
            self.session.open -= 1

    def __del__(self):
        if not self.closed:
            self.close()


def step_stats(tokens):
    visits = tokens * LAYERS * TOP_K
    return SimpleNamespace(
        tokens=tokens,
        experts_used=visits,
        experts_activated=visits,
        expert_hits=visits // 2,
        gated=0,
        bytes_read=visits // 2 * 110592,
        stall_s=0.001 * tokens,
        compute_s=0.002 * tokens,
        wall_s=0.003 * tokens,
    )
