# SPDX-License-Identifier: Apache-2.0
"""If a model computes NaN or infinity, the error says where it began and what helps."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from adapmoe import LLM, NonFiniteError, _core
from adapmoe.cli.main import app
from support.packs.weight_forgeries import forge_dense, forge_experts

IDS = np.arange(20, 60, dtype=np.int32)
OVERFLOW = r'keys or values of layer 3 are larger than kv_dtype="f16" can hold.*kv_dtype="f32"'


def scale(factor):
    def change(values):
        values *= factor

    return change


def layer(number, part):
    return f"model.layers.{number}.{part}.weight"


# {name: (options of the pack, what is forged, where it must be found)}
FORGERIES = {
    "embedding": ("f32", ("model.embed_tokens.weight", np.nan), "the embedding"),
    "norm": ("int8", (layer(5, "input_layernorm"), np.nan), "queries, keys and values of layer 5"),
    "projection": (
        "f32",
        (layer(1, "self_attn.o_proj"), np.inf),
        "the output projection of layer 1",
    ),
    "router": ("int8", (layer(2, "post_attention_layernorm"), np.nan), "the router of layer 2"),
    "head": ("int8", ("model.norm.weight", np.inf), "the last norm or the output head"),
    "experts": ("int8", None, "the experts of layer 4"),
}


@pytest.fixture(scope="module")
def forged(pack_factory, tmp_path_factory):
    """Copies of packs with other weights, by name."""
    made = {}

    def make(name):
        if name in made:
            return made[name]
        dense = FORGERIES[name][0] if name in FORGERIES else "int8"
        source = pack_factory(experts="f32" if name == "experts" else "int4", dense=dense)
        pack = made[name] = tmp_path_factory.mktemp("forged") / "pack.adapmoe"
        shutil.copytree(source, pack)
        if name == "overflow":
            forge_dense(pack, layer(3, "input_layernorm"), scale(1e6))
        elif name == "experts":
            forge_experts(pack, 4, np.nan)
        else:
            tensor, value = FORGERIES[name][1]
            forge_dense(pack, tensor, lambda values: values.fill(value))
        return pack

    return make


def open_session(pack, **settings):
    return _core.Session(str(pack), max_context=128, max_sequences=2, **settings)


STEPS = {
    "prefill": lambda session, seq: seq.prefill(IDS),
    "all logits": lambda session, seq: seq.prefill(IDS, True),
    "capture": lambda session, seq: seq.capture(IDS[:8].copy()),
    "decode": lambda session, seq: seq.decode(25),
    "batch": lambda session, seq: session.step(
        [(session.new_sequence(), IDS[:1], "last"), (seq, IDS[1:9], "last")]
    ),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("chunk", [8, 128])
def test_overflow_of_the_kv_cache_names_the_layer_and_what_helps(forged, step, chunk):
    session = open_session(forged("overflow"), prefill_chunk=chunk)
    seq = session.new_sequence()
    with pytest.raises(NonFiniteError, match=OVERFLOW):
        STEPS[step](session, seq)
    assert seq.length == 0  # nothing was appended
    session.close()
    session = open_session(forged("overflow"), prefill_chunk=chunk, kv_dtype="f32")
    result = STEPS[step](session, session.new_sequence())
    logits = result["logits"] if step == "capture" else result[0]
    assert np.isfinite(logits).all()
    session.close()


@pytest.mark.parametrize("kv_dtype", ["f16", "f32"])
@pytest.mark.parametrize("name", FORGERIES)
def test_what_the_cache_did_not_cause_is_not_blamed_on_it(forged, name, kv_dtype):
    session = open_session(forged(name), kv_dtype=kv_dtype, prefill_chunk=16)
    seq = session.new_sequence()
    for step in ("prefill", "decode", "batch"):
        with pytest.raises(NonFiniteError, match=f"first in {FORGERIES[name][2]}; ") as caught:
            STEPS[step](session, seq)
        assert "kv_dtype" not in str(caught.value)
        assert "adapmoe verify" in str(caught.value)
    assert session.totals.tokens == 0
    session.close()


def test_a_generation_raises_it(forged):
    with (
        LLM(forged("overflow"), max_context=128) as llm,
        pytest.raises(NonFiniteError, match=OVERFLOW),
    ):
        llm.generate("The first law")


def parse(text):
    """JSON as others read it."""

    def refuse(name):
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_eval_fails_and_prints_no_number(forged, tmp_path, more):
    text = tmp_path / "text.txt"
    text.write_text("The first law of robotics says that a robot may not harm a human being.")
    command = ["eval", str(forged("overflow")), "--text", str(text), *more]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "error: keys or values of layer 3" in done.stderr
    assert done.stdout == ""
    done = CliRunner().invoke(app, [*command, "--kv-dtype", "f32", "--json"])
    assert done.exit_code == 0, done.stderr
    assert parse(done.stdout)["nll"] > 0
