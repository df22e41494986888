# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from adapmoe.errors import CheckpointError
from adapmoe_export.matrix_packer import rope_inv_freq
from adapmoe_export.mixtral import parse_config
from adapmoe_export.source import find_architecture
from support.models.checkpoints import make_config

PATH = Path("somewhere/config.json")
V5 = {"rope_theta": ..., "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}


def parse(**changes):
    return parse_config(make_config(**changes), PATH)


def test_transformers_4():
    config = parse()
    assert config.rope_theta == 1e6
    assert config.head_dim == 16
    assert config.eos_token_id == [2]


def test_transformers_5():
    assert parse(**V5).rope_theta == 5e5


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"head_dim": 24}, "head_dim", 24),
        ({"head_dim": None}, "head_dim", 16),
        ({"num_key_value_heads": None}, "num_key_value_heads", 4),
        ({"sliding_window": 32}, "sliding_window", 32),
        ({"sliding_window": ...}, "sliding_window", None),
        ({"tie_word_embeddings": True}, "tie_word_embeddings", True),
        ({"tie_word_embeddings": ...}, "tie_word_embeddings", False),
        ({"hidden_act": ...}, "hidden_act", "silu"),
        ({"bos_token_id": None}, "bos_token_id", None),
        ({"bos_token_id": ...}, "bos_token_id", 1),
        ({"eos_token_id": [2, 5]}, "eos_token_id", [2, 5]),
        ({"eos_token_id": None}, "eos_token_id", []),
        ({"rope_scaling": None}, "rope_theta", 1e6),
        ({"rope_scaling": {"type": "default"}}, "rope_theta", 1e6),
        ({"rope_theta": 1000000}, "rope_theta", 1e6),
    ],
)
def test_accepted(changes, field, value):
    assert getattr(parse(**changes), field) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "hidden_size is None"),
        ({"hidden_size": 64.0}, "hidden_size is 64.0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": 66, "head_dim": None}, "does not divide"),
        ({"head_dim": 15}, "even"),
        ({"num_attention_heads": 3, "head_dim": 16}, "no multiple of num_key_value_heads 2"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok is 5"),
        ({"hidden_act": "gelu"}, "only 'silu'"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"tie_word_embeddings": "no"}, "expected true or false"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"eos_token_id": 67}, "expected 0 to 66"),
        ({"eos_token_id": "2"}, "eos_token_id holds '2'"),
        ({"bos_token_id": [1, 2]}, "expected one id"),
        ({"rope_theta": None}, "rope_theta is null"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "only rope_type 'default'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "only rope_type 'default'"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, "is given as"),
        ({"rope_parameters": 3}, "expected an object"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(CheckpointError, match=message) as error:
        parse(**changes)
    assert str(PATH) in str(error.value)


@pytest.mark.parametrize("model_type", ["llama", None, ["mixtral"]])
def test_unknown_architecture_is_refused(model_type):
    with pytest.raises(CheckpointError, match="is not implemented; have mixtral"):
        find_architecture(make_config(model_type=model_type), PATH)


def test_rope_frequencies_are_rounded_once_from_float64():
    frequencies = rope_inv_freq(parse(head_dim=32))
    exact = [1e6 ** (-2 * i / 32) for i in range(16)]
    np.testing.assert_array_equal(frequencies, np.float32(exact))
