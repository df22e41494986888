# SPDX-License-Identifier: Apache-2.0
"""G9 and G12 for `LLM.step`: in any mix, each sequence gets the bits that it would get alone."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapmoe import LLM, ContextOverflowError, _core

CONTEXT, SEQUENCES = 40, 3
OPTIONS = {"max_context": CONTEXT, "max_sequences": SEQUENCES}
PACKS = [
    {"experts": "int4", "dense": "int8", "tile_width": 64},
    {"experts": "f16", "dense": "f32", "tile_width": 64},
]

WHICH = st.integers(0, SEQUENCES - 1)
# Of each sequence: how many tokens it brings (0: it sits this step out), and the logits it wants.
PARTS = st.tuples(st.integers(0, 12), st.sampled_from(["none", "last", "all"]))
CHANGES = st.one_of(
    st.tuples(st.just("step"), st.permutations(range(SEQUENCES)), st.tuples(*[PARTS] * SEQUENCES)),
    st.tuples(st.just("step"), st.just(range(SEQUENCES)), st.just(((1, "last"),) * SEQUENCES)),
    st.tuples(st.just("truncate"), WHICH, st.integers(0, CONTEXT)),
    st.tuples(st.just("fork"), WHICH, WHICH, st.integers(0, CONTEXT)),
)


def floor_bytes(pack):
    with LLM(pack, **OPTIONS) as llm:
        return llm.memory_split.floor_bytes


class Alone:
    """The logits after any text: one sequence, token by token, scalar kernels, all resident."""

    def __init__(self, pack):
        self.llm = LLM(pack, max_context=CONTEXT, kernels="scalar")
        self.sequence = self.llm.new_sequence()
        self.ids = ()
        self.known = {}

    def row(self, ids):
        """After the tokens `ids`, a tuple."""
        while ids not in self.known:
            if self.ids == ids[: len(self.ids)]:
                self.ids = ids[: len(self.ids) + 1]
                self.known[self.ids] = self.sequence.decode(self.ids[-1])
            else:
                self.ids = self.ids[:-1]
                self.sequence.truncate(len(self.ids))
        return self.known[ids]


class Mixed:
    """Several sequences under test, and the tokens that each should hold."""

    def __init__(self, llm, alone, random):
        self.llm, self.alone, self.random = llm, alone, random
        self.sequences = [llm.new_sequence() for _ in range(SEQUENCES)]
        self.ids = [()] * SEQUENCES

    def step(self, order, parts):
        brought = [(at, *parts[at]) for at in order if parts[at][0] > 0]
        if not brought:
            return
        # Few different tokens, so that sequences often hold the same text.
        ids = {at: tuple(self.random.integers(5, 8, count).tolist()) for at, count, _ in brought}
        items = [(self.sequences[at], ids[at], logits) for at, _, logits in brought]
        if any(len(self.ids[at]) + count > CONTEXT for at, count, _ in brought):
            with pytest.raises(ContextOverflowError):
                self.llm.step(items)
            return
        for (at, count, logits), rows in zip(brought, self.llm.step(items), strict=True):
            self.ids[at] += ids[at]
            held = self.ids[at]
            expected = [
                self.alone.row(held[:n]) for n in range(len(held) - count + 1, len(held) + 1)
            ]
            assert self.sequences[at].last_stats.tokens == count
            if logits == "none":
                assert rows is None
            else:
                wanted = np.stack(expected) if logits == "all" else expected[-1]
                assert np.array_equal(rows, wanted)

    def truncate(self, at, length):
        length = min(length, len(self.ids[at]))
        self.sequences[at].truncate(length)
        self.ids[at] = self.ids[at][:length]

    def fork(self, source, target, length):
        if source == target:
            return
        self.sequences[target].close()
        length = min(length, len(self.ids[source]))
        self.sequences[target] = self.sequences[source].fork(length)
        self.ids[target] = self.ids[source][:length]

    def close(self):
        for at, sequence in enumerate(self.sequences):
            assert sequence.length == len(self.ids[at])
            sequence.close()


@pytest.fixture(scope="module", params=PACKS, ids=lambda p: f"{p['experts']}-{p['dense']}")
def alone(request, pack_factory):
    pack = pack_factory(**request.param)
    made = Alone(pack)
    yield pack, made
    made.llm.close()


@pytest.mark.parametrize("kernels", _core.build_info()["kernels"])
@pytest.mark.parametrize("budget", ["floor", "half", "resident"])
def test_any_mix_gives_each_sequence_its_own_bits(alone, budget, kernels):
    pack, reference = alone
    memory = {
        "floor": lambda: {"memory": floor_bytes(pack)},
        "half": lambda: {"experts_resident": 0.5, "prefill_chunk": 7},
        "resident": lambda: {"experts_resident": 1.0},
    }[budget]()

    with LLM(pack, kernels=kernels, **OPTIONS, **memory) as llm:

        @settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
        @given(st.lists(CHANGES, min_size=3, max_size=12), st.integers(0, 2**32 - 1))
        def try_changes(changes, seed):
            mixed = Mixed(llm, reference, np.random.default_rng(seed))
            try:
                for name, *arguments in changes:
                    getattr(mixed, name)(*arguments)
            finally:
                mixed.close()

        try_changes()


def test_the_totals_are_what_the_items_were(pack_factory):
    with LLM(pack_factory(), **OPTIONS, prefill_chunk=8) as llm:
        first, second = llm.new_sequence(), llm.new_sequence()
        llm.step([(first, range(5, 25), "none"), (second, [5])])
        tokens = [seq.last_stats.tokens for seq in (first, second)]
        activated = [seq.last_stats.experts_activated for seq in (first, second)]
        assert tokens == [20, 1]
        assert activated == [20 * 8 * 2, 8 * 2]  # 8 layers, 2 experts each
        assert (llm.stats.tokens, llm.stats.experts_activated) == (21, sum(activated))
        assert first.last_stats.bytes_read == second.last_stats.bytes_read == llm.stats.bytes_read


def test_experts_are_read_once_for_all_sequences(pack_factory):
    """At the smallest budget, where nothing stays: together much less is read than one by one."""
    pack = pack_factory()
    with LLM(pack, memory=floor_bytes(pack), prefetch=0, **OPTIONS) as llm:
        sequences = [llm.new_sequence() for _ in range(SEQUENCES)]

        def read(steps):
            before = llm.stats.bytes_read
            for items in steps:
                llm.step(items)
            return llm.stats.bytes_read - before

        items = [(sequence, range(10, 40), "none") for sequence in sequences]
        alone = read([[item] for item in items])
        for sequence in sequences:
            sequence.reset()
        assert read([items]) < 0.5 * alone
