# SPDX-License-Identifier: Apache-2.0
"""The identity gates that need a whole model: the same bits whatever the budget and batching.

G10 is in test_g10_reference_logits.py, G6 and G7 also at kernel and gate level in tests/native.
"""

import numpy as np
import pytest

from adapmoe import LLM, SamplingParams

PROMPT = "The function returns a list of the values that"
OPTIONS = {"max_context": 256, "prefill_chunk": 16}
# Quantized and plain weights take different paths through every kernel; tiles of 64 columns make
# four per expert, so that streaming, carrying accumulators and partial reads all happen.
PACKS = [
    {"experts": "int4", "dense": "int8", "tile_width": 64},
    {"experts": "int8", "dense": "int4", "group_size": 64, "tile_width": 128},
    {"experts": "f16", "dense": "f32", "tile_width": 64},
]


@pytest.fixture(params=PACKS, ids=lambda p: f"{p['experts']}-{p['dense']}")
def pack(request, pack_factory):
    return pack_factory(**request.param)


def token_ids(llm, text=PROMPT):
    return np.array(llm.tokenizer.encode(text), np.int32)


def trace(llm, ids, steps=12):
    """Logits of every step of a greedy continuation, [steps + 1, vocab_size]."""
    with llm.new_sequence() as seq:
        rows = [seq.prefill(ids)]
        for _ in range(steps):
            rows.append(seq.decode(int(rows[-1].argmax())))
    return np.stack(rows)


def trace_of(pack, **options):
    with LLM(pack, **{**OPTIONS, **options}) as llm:
        return trace(llm, token_ids(llm)), llm.stats


def floor_bytes(pack):
    with LLM(pack, **OPTIONS) as llm:
        return llm.memory_split.floor_bytes


def test_g1_resident_equals_streamed(pack):
    resident, _ = trace_of(pack, experts_resident=1.0)
    streamed, stats = trace_of(pack, experts_resident=0.25)
    assert stats.expert_hits < stats.experts_used  # it did stream
    assert np.array_equal(resident, streamed)


@pytest.mark.parametrize("policy", ["next-use", "farthest-layer", "lru"])
def test_g2_no_eviction_equals_smallest_legal_budget(pack, policy):
    everything, _ = trace_of(pack, experts_resident=1.0)
    smallest, stats = trace_of(pack, memory=floor_bytes(pack), policy=policy)
    assert stats.bytes_read > 0
    assert np.array_equal(everything, smallest)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_g4_pread_equals_io_uring(pack, prefetch):
    options = {"experts_resident": 0.3, "prefetch": prefetch, "direct_io": True}
    with LLM(pack, **OPTIONS, reader="io_uring") as llm:
        if llm.reader != "io_uring":
            pytest.skip("; ".join(llm._session.notes))
    threads, stats = trace_of(pack, **options, reader="pread")
    assert stats.expert_hits < stats.experts_used  # it did stream
    for read_depth, request_bytes in ((1, 0), (4, 0), (16, 0), (4, 4096), (16, 1 << 15)):
        ring, _ = trace_of(
            pack, **options, reader="io_uring", read_depth=read_depth, request_bytes=request_bytes
        )
        assert np.array_equal(threads, ring)
    pieces, _ = trace_of(pack, **options, reader="pread", read_depth=3, request_bytes=4096)
    assert np.array_equal(threads, pieces)


def test_g5_one_thread_equals_many(pack):
    one, _ = trace_of(pack, threads=1, experts_resident=0.5)
    for threads in (2, 5):
        many, _ = trace_of(pack, threads=threads, experts_resident=0.5)
        assert np.array_equal(one, many)


def test_g6_simd_equals_scalar(pack):
    scalar, _ = trace_of(pack, kernels="scalar", experts_resident=0.5)
    best, _ = trace_of(pack, kernels="auto", experts_resident=0.5)
    assert np.array_equal(scalar, best)


def test_g7_gating_with_threshold_zero_equals_top_k(pack):
    exact, exact_stats = trace_of(pack, gating="off")
    gated, gated_stats = trace_of(
        pack, gating="sensitivity", gating_threshold=0.0, sensitivity=[1.0] * 8
    )
    assert np.array_equal(exact, gated)
    assert exact_stats.experts_activated == gated_stats.experts_activated
    # and a threshold that drops something is seen, or the line above would show nothing
    dropped, dropped_stats = trace_of(
        pack, gating="sensitivity", gating_threshold=0.05, sensitivity=[1.0] * 8
    )
    assert dropped_stats.experts_activated < exact_stats.experts_activated
    assert not np.array_equal(exact, dropped)


def test_g8_reused_session_equals_fresh(pack):
    with LLM(pack, **OPTIONS, experts_resident=0.25) as llm:
        ids = token_ids(llm)
        trace(llm, token_ids(llm, "Something else entirely, and longer than the prompt was."), 20)
        reused = trace(llm, ids)
        with llm.new_sequence() as seq:  # reset instead of close
            seq.prefill(ids[::-1].copy())
            seq.reset()
            reset = seq.prefill(ids)
    fresh, _ = trace_of(pack, experts_resident=0.25)
    assert np.array_equal(fresh, reused)
    assert np.array_equal(fresh[0], reset)


def test_g9_batch_equals_alone(pack):
    prompts = [PROMPT, "def", "An error is raised when the file cannot be opened, so", "A"]
    with LLM(pack, **OPTIONS, experts_resident=0.5, max_sequences=len(prompts)) as llm:
        ids = [token_ids(llm, text) for text in prompts]
        alone = [trace(llm, row) for row in ids]
        sequences = [llm.new_sequence() for _ in prompts]
        last = np.stack([seq.prefill(row) for seq, row in zip(sequences, ids, strict=True)])
        batched = [last]
        for _ in range(12):
            items = [(seq, int(row.argmax())) for seq, row in zip(sequences, last, strict=True)]
            last = llm.decode_batch(items)
            batched.append(last)
    for i, rows in enumerate(alone):
        assert np.array_equal(rows, np.stack(batched)[:, i])


@pytest.mark.parametrize("kv_dtype", ["f16", "f32"])
def test_g12_any_chunking_equals_token_by_token(pack, kv_dtype):
    with LLM(pack, **OPTIONS, kv_dtype=kv_dtype, experts_resident=0.5) as llm:
        ids = token_ids(llm, " ".join([PROMPT] * 4))
        with llm.new_sequence() as seq:
            single = np.stack([seq.decode(int(token)) for token in ids])
        with llm.new_sequence() as seq:
            whole = seq.prefill(ids, all_logits=True)
        with llm.new_sequence() as seq:
            parts = [seq.prefill(part, all_logits=True) for part in np.split(ids, [1, 7, 24, 25])]
    assert np.array_equal(single, whole)
    assert np.array_equal(single, np.concatenate(parts))
    sevens = LLM(pack, max_context=256, prefill_chunk=7, kv_dtype=kv_dtype)
    with sevens, sevens.new_sequence() as seq:
        assert np.array_equal(single, seq.prefill(ids, all_logits=True))


def test_generated_tokens_do_not_depend_on_the_budget(pack):
    params = SamplingParams(max_tokens=40, temperature=0.9, top_p=0.95, seed=7, ignore_eos=True)
    texts = set()
    for memory in (floor_bytes(pack), "auto"):
        with LLM(pack, memory=memory, **OPTIONS) as llm:
            texts.add(tuple(llm.generate(PROMPT, params).token_ids))
    assert len(texts) == 1
