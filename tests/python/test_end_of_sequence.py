# SPDX-License-Identifier: Apache-2.0
"""What ends a generation: end tokens of all sources, --stop-id, and stop strings with tokens."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from adapmoe import SamplingParams
from adapmoe.cli.main import app
from adapmoe.text.tokenizer import Tokenizer
from adapmoe_export import export_pack
from support.models.chat_templates import CHATML
from support.models.tokenizer_kinds import KINDS, write_tokenizer
from support.packs.manifest_edit import list_again

IM_END = 4  # <|im_end|>, in every kind of tokenizer
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def fine_tune(tmp_path):
    """Its tokenizer says <|im_end|>, its config still says 2."""
    path = write_tokenizer(
        tmp_path / "pack", "byte-level", chat_template=CHATML, eos_token="<|im_end|>"
    )
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    return path


@pytest.fixture
def say(open_llm, fine_tune):
    """Let a model write these texts and tokens, and go on with </s>."""

    def generate(*parts, **params):
        llm = open_llm(path=fine_tune)
        coming = []
        for part in parts:
            coming += llm.tokenizer.encode(part) if isinstance(part, str) else [part]

        def force(_, logits):
            token = coming.pop(0) if coming else 2
            return np.where(np.arange(len(logits)) == token, 0, -np.inf).astype(np.float32)

        params = SamplingParams(**{"max_tokens": 40, "logits_processor": force} | params)
        return llm.chat(HELLO, params)

    return generate


@pytest.mark.parametrize("end", [2, IM_END])
def test_the_end_token_of_either_source_ends_the_answer(say, end):
    result = say("Hello there", end)
    assert (result.text, result.finish_reason) == ("Hello there", "stop")
    assert result.token_ids[-1] == end


@pytest.mark.parametrize("stop", ["<|end|>", "there<|end|>", "<|end|>\n", "re<|end|>\nThe"])
def test_a_stop_string_may_hold_special_tokens(say, stop):
    result = say("Hello there", 9, "\nThe first law", stop=stop)
    shown = "Hello there\nThe first law"
    before = "Hello there<|end|>\nThe first law".split(stop)[0]
    assert result.text == before
    assert result.finish_reason == "stop"
    assert len(result.token_ids) < 15
    assert say("Hello there", 9, "\nThe first law").text == shown


def test_a_special_token_is_never_shown_though_it_might_have_been_a_stop_string(say):
    assert say("Hello", 9, "there", stop="<|end|>x").text == "Hellothere"
    assert say("Hello", 9, stop="<|end|>x", max_tokens=2).text == "Hello"
    assert say("Hello", 9, "there", stop="Hellothere").text == "Hellothere"


def test_the_end_token_completes_a_stop_string(say):
    assert say("Hello there", IM_END, stop=" there<|im_end|>").text == "Hello"


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_stop_token_ids_end_the_answer_and_are_no_text(say, ignore_eos):
    law = say("law").token_ids[0]
    result = say("Hello", law, "there", stop_token_ids=[law], ignore_eos=ignore_eos)
    assert (result.text, result.finish_reason) == ("Hello", "stop")
    assert result.token_ids[-1] == law


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tokenizer_has_these_tokens(tmp_path, kind):
    spec = json.loads(write_tokenizer(tmp_path, kind).joinpath("tokenizer.json").read_text())
    assert spec["model"]["vocab"]["<|im_end|>"] == IM_END
    assert spec["model"]["vocab"]["<|end|>"] == 9


def invoke(*words, lines=""):
    return CliRunner().invoke(app, [*map(str, words)], input=lines)


@pytest.mark.parametrize("verb", ["run", "chat"])
def test_stop_id_may_be_given_several_times(fake_core, tiny_checkpoint, verb):
    words = [f"{id_}" for id_ in Tokenizer.from_pack(tiny_checkpoint).encode("of the to")[1:4]]
    fake_core(script=lambda history: int(words[len(history) % 3]))
    call = [verb, tiny_checkpoint, "-n", "9"] + (["-p", "Hello"] if verb == "run" else [])
    whole = invoke(*call, lines="Hello\n").stdout
    cut = invoke(*call, "--stop-id", words[1], "--stop-id", "7", lines="Hello\n").stdout
    assert len(cut.split()) < 3 < len(whole.split()) == 9
    assert whole.strip().startswith(cut.strip())


@pytest.mark.parametrize("verb", ["run", "chat"])
@pytest.mark.parametrize("wrong", ["4096", "-1", "x", str(2**70)])
def test_a_stop_id_that_is_none_is_wrong_usage(fake_core, tiny_checkpoint, verb, wrong):
    words = [verb, tiny_checkpoint] + (["-p", "Hello"] if verb == "run" else [])
    done = invoke(*words, f"--stop-id={wrong}", lines="Hello\n")
    assert done.exit_code == 2
    assert "--stop-id" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.fixture
def narrow(tmp_path):
    """A pack whose tokenizer knows more tokens than its model."""
    path = write_tokenizer(
        tmp_path / "pack", "byte-level", chat_template="{{messages[-1].content}}"
    )
    (path / "manifest.json").write_text(json.dumps({"config": {"vocab_size": 4}}))
    return path


def test_run_names_the_token_that_the_model_lacks(fake_core, narrow):
    done = invoke("run", narrow, "-p", "<|im_end|>")
    assert done.exit_code == 1
    assert "error: " in done.stderr
    assert "tokenizer.json: the text has the token '<|im_end|>' with id 4" in done.stderr


def test_chat_goes_on_after_a_token_that_the_model_lacks(fake_core, narrow):
    done = invoke("chat", narrow, "-n", "2", lines="<|im_end|>\n<s>\n")
    assert done.exit_code == 1
    assert "the text has the token '<|im_end|>' with id 4" in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_an_empty_prompt_without_a_first_token_is_wrong_usage(fake_core, narrow):
    done = invoke("run", narrow, "-p", "")
    assert done.exit_code == 2
    assert "prompt must be at least one token id" in done.stderr


def test_chat_goes_on_after_a_template_without_text(fake_core, tiny_checkpoint, tmp_path):
    template = tmp_path / "template.jinja"
    template.write_text("{{ '' if messages[-1].content == 'nothing' else 'x' }}")
    words = ["chat", tiny_checkpoint, "-n", "2", "--chat-template", template]
    done = invoke(*words, lines="nothing\nHello\n")
    assert done.exit_code == 1
    assert "the chat template makes no text of these messages" in done.stderr
    assert len(done.stdout.splitlines()) >= 1


def test_inspect_shows_what_ends_an_answer_and_who_says_so(tiny_checkpoint, tmp_path, monkeypatch):
    pack = tmp_path / "pack"
    export_pack(tiny_checkpoint, pack)
    # The exporter refuses such a tokenizer; a pack may be older than it.
    spec = json.loads((pack / "tokenizer.json").read_text())
    spec["added_tokens"].append(spec["added_tokens"][-1] | {"id": 4096, "content": "[/end]"})
    (pack / "tokenizer.json").write_text(json.dumps(spec))
    (pack / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4096]}))
    list_again(pack)
    monkeypatch.setenv("COLUMNS", "200")
    shown = " ".join(invoke("inspect", pack).stdout.split())
    for end in (
        "2 </s> (from config, special_tokens_map.json)",
        "3 <0x00> (from generation_config.json)",
        "4096 [/end] (from generation_config.json; no id of this model)",
    ):
        assert end in shown
    ends = json.loads(invoke("inspect", pack, "--json").stdout)["end_of_sequence"]
    assert [end["token_id"] for end in ends] == [2, 3, 4096]
