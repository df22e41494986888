# SPDX-License-Identifier: Apache-2.0
"""The exporter takes no config that the runtime could not open, and stumbles over none."""

import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from adapmoe import _core
from adapmoe.errors import AdapmoeError, CheckpointError
from adapmoe_export import ExportError, export_pack
from adapmoe_export.manifest import check_limits
from adapmoe_export.mixtral import DEFAULTS, MIXTRAL, parse_config
from adapmoe_export.plan import DTYPES, GROUP_SIZES, ExportOptions, make_plan
from support.models.checkpoints import make_config, make_tensors, write_checkpoint
from support.packs.manifest_edit import edit_manifest

PATH = Path("somewhere/config.json")
FIELDS = sorted({*make_config(), *DEFAULTS, "head_dim", "rope_scaling", "rope_parameters"})

# Smallest and largest value of each field, which runtime/store/manifest.cc has too.
LIMITS = {
    "hidden_size": (1, 1 << 20),
    "intermediate_size": (1, 1 << 24),
    "num_hidden_layers": (1, 4096),
    "num_attention_heads": (1, 4096),
    "num_key_value_heads": (1, 4),
    "head_dim": (2, 1024),
    "vocab_size": (1, 1 << 26),
    "num_local_experts": (1, 65536),
    "num_experts_per_tok": (1, 4),
    "max_position_embeddings": (1, 1 << 26),
    "sliding_window": (1, 1 << 30),
    "bos_token_id": (0, 66),
    "eos_token_id": (0, 66),
    "rms_norm_eps": (1e-30, 1.0),
}
# Changes that keep a config of one extreme field consistent.
BESIDE = {
    "hidden_size": {"head_dim": 2},
    "num_attention_heads": {"num_key_value_heads": 1, "head_dim": 2},
    "num_key_value_heads": {},
    "vocab_size": {"bos_token_id": 0, "eos_token_id": 0},
    "num_local_experts": {"num_experts_per_tok": 1},
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """A pack whose manifest is edited, to ask the runtime what it takes."""
    folder = tmp_path_factory.mktemp("limits")
    config = make_config()
    write_checkpoint(folder / "checkpoint", config, make_tensors(config))
    export_pack(folder / "checkpoint", folder / "pack.adapmoe")
    return folder / "pack.adapmoe"


def runtime_complaint(pack, field, value):
    """What the runtime says of a manifest with this value in `config`; "" for another field's."""
    original = (pack / "manifest.json").read_bytes()
    try:
        edit_manifest(pack, lambda manifest: manifest["config"].update({field: value}))
        _core.inspect_pack(str(pack))
    except Exception as error:
        return str(error) if f"config.{field}:" in str(error) else ""
    finally:
        (pack / "manifest.json").write_bytes(original)
    return ""


@pytest.mark.parametrize("field", LIMITS)
def test_limits_are_those_of_the_runtime(pack, field):
    low, high = LIMITS[field]
    step = 1 if isinstance(low, int) else 1e-6
    for value in (low, high):
        parse_config(make_config(**BESIDE.get(field, {}) | {field: value}), PATH)
        shown = [value] if field == "eos_token_id" else value
        assert not runtime_complaint(pack, field, shown)
    too_small = low - step if isinstance(low, int) else 0.0
    for value in (too_small, high + step):
        with pytest.raises(CheckpointError, match=field):
            parse_config(make_config(**{field: value}), PATH)
        if value:  # an rms_norm_eps of 0 the runtime takes
            assert runtime_complaint(pack, field, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 4096, "head_dim": 512}, "4096 heads of 512"),
        (
            {"hidden_size": 1 << 20, "num_attention_heads": 4, "head_dim": None},
            "head_dim is 262144",
        ),
        ({"num_local_experts": 512, "num_experts_per_tok": 257}, "from 1 to 256"),
        ({"rope_theta": 1e-31}, "rope_theta is 1e-31"),
        ({"rope_theta": 10**400}, "rope_theta is 1000"),
        ({"rope_theta": float("inf")}, "rope_theta is inf"),
        ({"rms_norm_eps": -(10**400)}, "rms_norm_eps is -1000"),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings is 1000000000000"),
        ({"vocab_size": 10**5000}, "vocab_size is a value too long to print"),
        ({"rope_parameters": {"rope_theta": True}}, "rope_theta is True"),
    ],
)
def test_beyond_the_limits(changes, message):
    with pytest.raises(CheckpointError, match=message):
        parse_config(make_config(**changes), PATH)


@pytest.mark.parametrize("theta", [1e-30, 1e308])
def test_extreme_bases_give_finite_frequencies(tmp_path, theta):
    config = make_config(rope_theta=theta, head_dim=1024, num_attention_heads=1, hidden_size=16)
    config |= {"num_key_value_heads": 1, "num_local_experts": 2, "intermediate_size": 16}
    source = write_checkpoint(tmp_path / "checkpoint", config, make_tensors(config))
    export_pack(source, tmp_path / "out.adapmoe")
    _core.inspect_pack(str(tmp_path / "out.adapmoe"))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**6), 10**20)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["silu", "default", 0, 1, 2, 64, 10**9, 10**15, 10**400, -1, 1e300]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["rope_type", "rope_theta", "type", "0"]), inner)
    ),
    max_leaves=4,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from([*FIELDS, "num_experts", "layer_types"]), anything))
def test_any_config_is_taken_or_refused_at_once(changes):
    began = time.perf_counter()
    refusal = ""
    try:
        config = parse_config(make_config() | changes, PATH)
        check_limits(make_plan(MIXTRAL, config, ExportOptions()))
    except (CheckpointError, ExportError) as error:
        refusal = str(error)
    assert len(refusal) < 1000
    assert time.perf_counter() - began < 20


def sizes(most):
    return st.integers(1, most)


@st.composite
def small_configs(draw):
    heads = draw(st.sampled_from([1, 2, 3, 4, 6]))
    experts = draw(sizes(5))
    vocab = draw(st.sampled_from([1, 2, 17, 67]))
    config = {
        "model_type": "mixtral",
        "hidden_size": draw(st.sampled_from([1, 16, 40, 96])),
        "intermediate_size": draw(st.sampled_from([1, 17, 96, 130])),
        "num_hidden_layers": draw(sizes(3)),
        "num_attention_heads": heads,
        "num_key_value_heads": draw(st.sampled_from([k for k in (1, 2, 3) if heads % k == 0])),
        "head_dim": 2 * draw(sizes(20)),
        "vocab_size": vocab,
        "num_local_experts": experts,
        "num_experts_per_tok": draw(sizes(experts)),
        "tie_word_embeddings": draw(st.booleans()),
        "bos_token_id": draw(st.none() | st.integers(0, vocab - 1)),
        "eos_token_id": draw(st.none() | st.lists(st.integers(0, vocab - 1), max_size=3)),
    }
    extreme = {
        "sliding_window": st.none() | sizes(1 << 30),
        "max_position_embeddings": sizes(1 << 26),
        "rms_norm_eps": st.floats(1e-30, 1.0),
        "rope_theta": st.floats(1e-30, 1e308) | st.integers(1, 10**18),
    }
    for field, values in extreme.items():
        if draw(st.booleans()):
            config[field] = draw(values)
    return config


@settings(max_examples=40)
@given(
    config=small_configs(),
    experts=st.sampled_from(DTYPES),
    dense=st.sampled_from(DTYPES),
    group_size=st.sampled_from(GROUP_SIZES),
)
def test_what_is_exported_can_be_opened(tmp_path_factory, config, experts, dense, group_size):
    folder = tmp_path_factory.mktemp("random")
    source = write_checkpoint(folder / "checkpoint", config, make_tensors(config))
    export_pack(source, folder / "p", experts=experts, dense=dense, group_size=group_size)
    opened = json.loads(_core.inspect_pack(str(folder / "p")))
    assert opened["config"]["vocab_size"] == config["vocab_size"]


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"num_hidden_layers": 4096, "num_local_experts": 65536}, {}, "more than the 37449"),
        ({"num_hidden_layers": 100, "num_local_experts": 375}, {}, "more than the 37449"),
        ({"intermediate_size": 1 << 24}, {"tile_width": 32}, "524288 tiles"),
        (
            {"num_hidden_layers": 127, "num_local_experts": 64, "intermediate_size": 4096},
            {"tile_width": 32},
            "manifest.json would list",
        ),
    ],
)
def test_more_than_a_pack_can_list(changes, options, message):
    config = parse_config(make_config(num_experts_per_tok=1) | changes, PATH)
    with pytest.raises(AdapmoeError, match=message):
        check_limits(make_plan(MIXTRAL, config, ExportOptions(**options)))


def test_the_estimate_of_the_manifest_is_no_smaller_than_the_manifest(pack):
    config = parse_config(make_config(), PATH)
    plan = make_plan(MIXTRAL, config, ExportOptions())
    real = (pack / "manifest.json").stat().st_size
    assert real <= check_limits(plan) <= real + 4096
    wider = replace(config, num_local_experts=5)
    assert check_limits(make_plan(MIXTRAL, wider, ExportOptions())) > check_limits(plan)


def test_a_model_as_large_as_a_pack_can_be_is_taken():
    config = parse_config(make_config(num_hidden_layers=60, num_local_experts=512), PATH)
    began = time.perf_counter()
    assert check_limits(make_plan(MIXTRAL, config, ExportOptions())) < 8 << 20
    assert time.perf_counter() - began < 10


@pytest.mark.torch
def test_defaults_are_those_of_transformers():
    from transformers import MixtralConfig

    reference = MixtralConfig()
    config = parse_config({"model_type": "mixtral"}, PATH)
    for field in DEFAULTS:
        ours, theirs = getattr(config, field), getattr(reference, field)
        assert ours == ([theirs] if field == "eos_token_id" else theirs), field
    assert config.rope_theta == reference.rope_parameters["rope_theta"]
    assert config.sliding_window == reference.sliding_window
    assert config.head_dim == reference.hidden_size // reference.num_attention_heads
    assert math.isclose(config.rms_norm_eps, reference.rms_norm_eps)


@pytest.mark.torch
@pytest.mark.parametrize("field", sorted({*DEFAULTS, "rope_theta", "sliding_window"}))
def test_a_field_that_is_left_out_is_what_transformers_makes_of_it(field):
    from transformers import MixtralConfig

    raw = make_config(num_local_experts=8, num_hidden_layers=3, bos_token_id=5, eos_token_id=7)
    del raw[field]
    if field in ("hidden_size", "num_attention_heads"):
        raw["head_dim"] = 16
    if field == "num_key_value_heads":  # 8 if left out
        raw |= {"num_attention_heads": 16, "head_dim": 4}
    ours = parse_config(raw, PATH)
    theirs = MixtralConfig(**raw)
    wanted = (
        theirs.rope_parameters["rope_theta"] if field == "rope_theta" else getattr(theirs, field)
    )
    assert getattr(ours, field) == ([wanted] if field == "eos_token_id" else wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 1025}, "threads 1025: give 0"),
        ({"threads": True}, "threads True"),
        ({"threads": 1.0}, "threads 1.0"),
        ({"group_size": 32.0}, "group size 32.0"),
        ({"tile_width": 64.0}, "tile width 64.0"),
        ({"tile_width": "64"}, "tile width '64'"),
        ({"tile_width": 10**30}, "tile width 1000000000000000000000000000000"),
        ({"experts": 4}, "experts: unknown dtype 4"),
        ({"dense": ["int4"]}, r"dense: unknown dtype \['int4'\]"),
    ],
)
def test_options_of_a_wrong_type_are_refused(tiny_checkpoint, tmp_path, options, message):
    with pytest.raises(ExportError, match=message):
        export_pack(tiny_checkpoint, tmp_path / "out.adapmoe", **options)
