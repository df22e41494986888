# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of `adapmoe bench --profile`: spans in, parts that add up out."""

import json
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from adapmoe.bench.profile import (
    OTHER,
    PARTS,
    PYTHON,
    MemoryTraffic,
    Part,
    PhaseProfile,
    profile,
    summarize_phase,
)
from adapmoe.core_types import Span
from adapmoe.pack.manifest import Manifest

MS = 1_000_000  # ns


@pytest.fixture(scope="module")
def manifest(pack_factory):
    return Manifest.read(pack_factory(experts="int4", dense="int4"))


def span(name, begin, end, *, lane="compute", layer=0):
    return Span(lane, name, 0, layer, begin * MS, end * MS)


def test_every_layer_names_its_tensors(manifest):
    traffic, tensors = MemoryTraffic(manifest), manifest.dense.tensors
    layer = sum(t.bytes for name, t in tensors.items() if name.startswith("model.layers.3."))
    found = {name: traffic.span_bytes(name, 3) for name in ("norm", "qkv_proj", "o_proj", "router")}
    assert sum(found.values()) + found["norm"] == layer  # a layer has two norms
    assert traffic.span_bytes("head", -1) == tensors["lm_head.weight"].bytes
    assert traffic.span_bytes("norm", -1) == tensors["model.norm.weight"].bytes
    assert traffic.span_bytes("attention", 3) is None
    # Only the padding of tiles to pages is missing.
    experts = manifest.experts
    padding = experts.expert_bytes - traffic.gate_up_bytes - traffic.down_bytes
    assert 0 <= padding < 4096 * experts.tiles
    assert traffic.gate_up_bytes > traffic.down_bytes


def test_keys_and_values_grow_with_the_position_up_to_the_window(manifest):
    traffic = MemoryTraffic(manifest)
    row = traffic.kv_bytes([0])
    assert row == 8 * 2 * 2 * 32 * 2  # layers, K and V, heads, head_dim, bytes
    assert traffic.kv_bytes([0, 3]) == 5 * row
    sliding = replace(manifest, config=replace(manifest.config, sliding_window=2))
    assert MemoryTraffic(sliding).kv_bytes([0, 3]) == 3 * row


def test_parts_add_up_and_what_no_span_tells_is_other(manifest):
    traffic = MemoryTraffic(manifest)
    spans = [
        span("norm", 0, 1),
        span("gate_up", 1, 3),
        span("read", 0, 50, lane="demand"),
        span("stall", 3, 7, lane="stall", layer=-1),
        span("gate_up, streamed", 7, 8),
        span("head", 8, 10, layer=-1),
    ]
    found = summarize_phase(
        spans,
        tokens=2,
        seconds=0.020,
        core_seconds=0.014,
        disk_bytes=600,
        traffic=traffic,
        memory={"gate and up": 1000, "attention": None},
    )
    seconds = {name: part.seconds for name, part in found.parts.items() if part.seconds}
    assert seconds == pytest.approx(
        {
            "norms": 0.0005,
            "gate and up": 0.0015,
            "waiting for reads": 0.002,
            "head": 0.001,
            PYTHON: 0.003,
            OTHER: 0.002,
        }
    )
    assert sum(seconds.values()) == pytest.approx(found.seconds_per_token)
    assert sum(part.share for part in found.parts.values()) == pytest.approx(1.0)
    assert list(found.parts) == [*PARTS, PYTHON, OTHER]
    assert found.parts["gate and up"].memory_bytes == 500
    assert found.parts["head"].memory_bytes == traffic.span_bytes("head", -1) / 2
    assert found.parts["attention"].memory_bytes is None
    assert found.disk_bytes_per_token == 300


def test_a_part_reaches_a_share_of_the_bandwidth():
    assert Part(0.5, 1.0, 100.0).of_bandwidth(400.0) == 0.5
    assert Part(0.5, 1.0, None).of_bandwidth(400.0) is None
    assert Part(0.0, 0.0, 0.0).of_bandwidth(400.0) is None


@pytest.mark.parametrize(
    ("memory_bytes", "disk_bytes", "waiting", "bound"),
    [
        (80, 0, 0.0, "memory"),
        (80, 90, 0.6, "disk"),
        (40, 40, 0.6, "waiting"),
        (40, 40, 0.4, "computing"),
    ],
)
def test_what_explains_half_of_the_time_bounds_it(memory_bytes, disk_bytes, waiting, bound):
    parts = {
        "down": Part(1 - waiting, 1 - waiting, memory_bytes),
        "waiting for reads": Part(waiting, waiting, None),
    }
    phase = PhaseProfile(1, 1.0, parts, disk_bytes)
    assert phase.bound_by(memory=100.0, disk=100.0) == bound
    report = json.loads(json.dumps(phase.as_dict(100.0, 100.0)))
    assert report["bandwidth_shares"] == {"memory": memory_bytes / 100, "disk": disk_bytes / 100}


def test_a_backend_whose_calls_return_early_is_refused():
    with pytest.raises(ValueError, match="calls of cuda/sm_87 return early"):
        profile(SimpleNamespace(backend="cuda/sm_87"), None)
