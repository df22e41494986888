# SPDX-License-Identifier: Apache-2.0
"""What an ExpertCache must do, in plain Python: the model that random tests compare it with."""

from collections import Counter

LOADING, READY, FAILED = "loading", "ready", "failed"


class CacheModel:
    """Experts are (layer, expert). An expert has all of its frames or none."""

    def __init__(self, layers, tiles, frames, policy):
        self.layers, self.tiles, self.policy = layers, tiles, policy
        self.free = frames
        self.states = {}  # expert -> state of every tile
        self.holds = Counter()
        self.last_use = {}
        self.clock = self.visits = self.hits = self.reads = 0

    def resident(self, expert):
        return expert in self.states and set(self.states[expert]) == {READY}

    def loading(self, expert):
        return LOADING in self.states.get(expert, ())

    def _victim(self, candidates, layer):
        def key(expert):
            if self.policy == "lru":
                return self.last_use[expert]
            ahead = [(layer + 1 + step) % self.layers for step in range(self.layers)]
            return -ahead.index(expert[0]), self.last_use[expert]

        return min(candidates, key=key)

    def would_wait(self, expert):
        """Whether `expert` must wait for abandoned reads under way: its own, of which one has
        failed already, or others, whose frames it needs."""
        if self._abandoned_and_broken(expert):
            return True
        unheld = [e for e in self.states if self.holds[e] == 0]
        settled = [e for e in unheld if not self.loading(e)]
        at_once = self.free + self.tiles * len(settled)
        in_the_end = self.free + self.tiles * len(unheld)
        return expert not in self.states and at_once < self.tiles <= in_the_end

    def make_room(self, expert):
        """Evict for `expert`: "room", "refused", or "wait" after all that can go at once."""
        if self._abandoned_and_broken(expert):
            return "wait"
        if expert in self.states:
            return "room"
        unheld = [e for e in self.states if self.holds[e] == 0]
        if self.free + self.tiles * len(unheld) < self.tiles:
            return "refused"
        while self.free < self.tiles:
            candidates = [e for e in unheld if e in self.states and not self.loading(e)]
            if not candidates:
                return "wait"
            self._drop(self._victim(candidates, expert[0]))
        return "room"

    def hold(self, expert):
        """After make_room said "room": hold, and start the reads. True if there are any."""
        self.visits += 1
        self.hits += self.resident(expert)
        starts = expert not in self.states
        if starts:
            self.states[expert] = [LOADING] * self.tiles
            self.free -= self.tiles
        self.holds[expert] += 1
        self.clock += 1
        self.last_use[expert] = self.clock
        return starts

    def complete(self, expert, tile, outcome):
        """`outcome`: "ok", or how the read went wrong: "damaged" or "failed"."""
        self.reads += outcome != "failed"
        self.states[expert][tile] = READY if outcome == "ok" else FAILED
        self._drop_if_broken(expert)

    def release(self, expert):
        self.holds[expert] -= 1
        self._drop_if_broken(expert)

    def resize(self, frames):
        """Nobody holds anything and nothing is being read."""
        while len(self.states) * self.tiles > frames:
            self._drop(self._victim(list(self.states), self.layers - 1))
        self.free = frames - len(self.states) * self.tiles

    def _abandoned_and_broken(self, expert):
        return self.holds[expert] == 0 and FAILED in self.states.get(expert, ())

    def _drop_if_broken(self, expert):
        if self.holds[expert] == 0 and not self.loading(expert) and not self.resident(expert):
            self._drop(expert)

    def _drop(self, expert):
        del self.states[expert]
        self.free += self.tiles
