# SPDX-License-Identifier: Apache-2.0
"""The widened model that benchmarks run on computes what the narrow one does."""

import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from adapmoe import LLM
from adapmoe.pack.calibration import (
    read_calibration,
    read_first_layer_gate,
    write_calibration,
)
from adapmoe_export import ExportError
from benchmarks import widen as widening
from support.packs.calibrations import PAYS, make_calibration

pytestmark = pytest.mark.slow

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 512,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
PROMPT = "The function returns a list of the names that were found in the file, sorted by age. "


def logits_of(pack):
    with LLM(pack, kv_dtype="f32") as llm, llm.new_sequence() as sequence:
        return sequence.prefill(llm.tokenizer.encode(PROMPT * 3), all_logits=True)


@pytest.fixture(scope="module")
def narrow_logits(pack_factory):
    return logits_of(pack_factory(experts="f32", dense="f32"))


def widened_logits(checkpoint, out, shape=SHAPE, **options):
    options = {"experts": "f32", "dense": "f32"} | options
    widening.widen(checkpoint, out / "wide.adapmoe", shape, **options)
    return logits_of(out / "wide.adapmoe")


def test_the_widened_model_gives_the_same_logits(narrow_logits, tiny_checkpoint, tmp_path):
    wide = widened_logits(tiny_checkpoint, tmp_path)
    assert narrow_logits.std() > 1
    assert np.abs(wide - narrow_logits).max() <= 1e-4


def test_several_tiles_and_int4_stay_within_the_quantization_error(
    pack_factory, tiny_checkpoint, tmp_path
):
    narrow = logits_of(pack_factory(experts="int4", dense="int8"))
    wide = widened_logits(tiny_checkpoint, tmp_path, experts="int4", dense="int8", tile_width=256)
    assert np.sqrt(np.mean((wide - narrow) ** 2)) <= 0.05 * narrow.std()


def test_the_first_layers_alone_and_a_longer_context_can_be_had(tiny_checkpoint, tmp_path):
    shape = SHAPE | {"num_hidden_layers": 2, "max_position_embeddings": 8192}
    widening.widen(tiny_checkpoint, tmp_path / "wide.adapmoe", shape)
    with LLM(tmp_path / "wide.adapmoe", max_context=8192) as llm, llm.new_sequence() as sequence:
        sequence.prefill([1, 2, 3])
        assert sequence.last_stats.experts_activated == 3 * 2 * 2


@pytest.mark.parametrize("broken", ["q_proj", "o_proj", "w2", "inv_freq"])
def test_each_correction_counts(narrow_logits, tiny_checkpoint, tmp_path, monkeypatch, broken):
    axes_of = widening.axes

    def without_one(narrow, wide):
        axes = axes_of(narrow, wide)
        rows, cols, scale = axes[broken]
        axes[broken] = (rows, cols, scale * 2)
        return axes

    monkeypatch.setattr(widening, "axes", without_one)
    wide = widened_logits(tiny_checkpoint, tmp_path)
    assert np.abs(wide - narrow_logits).max() > 1e-2


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"hidden_size": 384}, "hidden_size"),
        ({"num_key_value_heads": 8}, "heads per KV head"),
        ({"head_dim": 16}, "head_dim"),
        ({"num_hidden_layers": 9}, "num_hidden_layers"),
    ],
)
def test_a_shape_that_is_no_multiple_is_refused(tiny_checkpoint, tmp_path, change, name):
    with pytest.raises(ExportError, match=name):
        widening.widen(tiny_checkpoint, tmp_path / "wide.adapmoe", SHAPE | change)
    assert not (tmp_path / "wide.adapmoe").exists()


def test_a_calibration_is_carried_over(pack_factory, tiny_checkpoint, tmp_path):
    narrow, wide = tmp_path / "narrow.adapmoe", tmp_path / "wide.adapmoe"
    shutil.copytree(pack_factory(), narrow)
    widening.widen(tiny_checkpoint, wide, SHAPE)
    gate = np.random.default_rng(1).standard_normal((8, 256), np.float32)
    threshold = replace(PAYS, threshold=0.5, bytes_per_token=1000.0)
    write_calibration(narrow, make_calibration(sensitivity=threshold), gate)

    widening.carry_calibration(narrow, wide)

    carried = read_calibration(wide)
    assert carried.gating.sensitivity.threshold == 0.5
    assert carried.gating.sensitivity.bytes_per_token > 3000
    assert carried.gating.sensitivity.bytes_per_token_without is None
    features = np.random.default_rng(2).standard_normal(256, np.float32)
    wide_gate = read_first_layer_gate(wide, carried)
    np.testing.assert_allclose(wide_gate @ np.tile(features, 2), gate @ features, rtol=1e-4)
