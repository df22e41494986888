# SPDX-License-Identifier: Apache-2.0
"""Thousands of damaged and forged packs: a typed error that helps, or a correct run.

Never a crash, a hang, or memory over the ceiling.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adapmoe import _core
from adapmoe.errors import PackError
from support.models.checkpoints import make_config, make_tensors, write_checkpoint
from support.packs.mutation_worker import MEMORY
from support.packs.pack_mutations import BASES, apply, make_cases

WORKER = Path(__file__).resolve().parents[1] / "support" / "packs" / "mutation_worker.py"
WORKERS = 2
TYPED = {"PackError", "ReadError", "BudgetError"}
# A forged model may have room for one token only, or weights that no float can hold the sums of.
FORGED = TYPED | {"ContextOverflowError", "NonFiniteError"}
REMEDY = re.compile(
    r"copy or export|copy the pack again|export the pack|adapmoe export|lower |raise |use new_seq|"
    r"adapmoe verify|use kv_dtype"
)
SLACK = 64 << 20


def add_tokenizer(checkpoint):
    """One token per letter, as a byte-level tokenizer."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocab = {text: i for i, text in enumerate(["<unk>", "<s>", "</s>", "\u0120", *letters])}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
            for text, i in list(vocab.items())[:3]
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        | {"use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
        | {"use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>"},
    }
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    (checkpoint / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A folder with every base pack, and for each a twin of the same sizes and other weights."""
    from adapmoe_export import export_pack

    folder = tmp_path_factory.mktemp("bases")
    config = make_config(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        vocab_size=40,
        max_position_embeddings=64,
    )
    for seed, suffix in ((0, ""), (1, "-other")):
        source = folder / f"checkpoint{suffix}"
        write_checkpoint(source, config, make_tensors(config, seed))
        add_tokenizer(source)
        for base, (experts, dense) in BASES.items():
            out = folder / (base + suffix)
            export_pack(source, out, experts=experts, dense=dense, tile_width=32)
    return folder


@pytest.fixture(scope="module")
def outcomes(bases, tmp_path_factory):
    """What came of each case: {index: result}."""
    work = tmp_path_factory.mktemp("mutated")
    paths = [str(WORKER.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]

    def share(first):
        return subprocess.run(
            [sys.executable, str(WORKER), str(bases), str(work), str(first), str(WORKERS)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=600,
        )

    results = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        for done in pool.map(share, range(WORKERS)):
            *lines, last = done.stdout.splitlines() or [""]
            assert done.returncode == 0, (done.returncode, last, done.stderr[-2000:])
            for line in [*lines, last]:
                if not line.startswith("begin"):
                    result = json.loads(line)
                    results[result["index"]] = result
    return results


def test_there_are_enough_and_each_came_to_an_end(outcomes):
    cases = make_cases()
    assert len(cases) >= 2000
    assert set(outcomes) == set(range(len(cases)))
    counts = Counter(result["error"] or "correct run" for result in outcomes.values())
    print(len(cases), "mutated packs:", dict(counts))
    assert counts["PackError"] > 1000
    assert counts["correct run"] > 100


def test_errors_are_typed_and_say_where_and_what_to_do(outcomes):
    problems = []
    for index, case in enumerate(make_cases()):
        error, message = outcomes[index]["error"], outcomes[index].get("message", "")
        if error is None:
            continue
        allowed = FORGED if case.forged else TYPED
        names_file = error != "PackError" or f"{index}.adapmoe/" in message
        helps = REMEDY.search(message) or error == "ContextOverflowError"
        if error not in allowed or not names_file or not helps or len(message) > 700:
            problems.append(f"{index} {case.base} {case.name}: {error}: {message[:300]!r}")
    assert not problems, f"{len(problems)}\n" + "\n".join(problems[:40])


def test_what_runs_is_right(outcomes):
    """A damaged pack that opens gives the logits and tokens of the whole one."""
    wrong = [
        f"{index} {case.base} {case.name}"
        for index, case in enumerate(make_cases())
        if outcomes[index]["error"] is None and not case.forged and not outcomes[index]["right"]
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.memory
def test_memory_stays_below_the_ceiling(outcomes):
    cases = make_cases()
    worst = max(outcomes.values(), key=lambda result: result["growth"])
    print(f"grew by at most {worst['growth'] >> 20} MiB: {cases[worst['index']].name}")
    assert worst["growth"] <= MEMORY + SLACK, (worst, cases[worst["index"]].name)


def test_inspect_refuses_what_open_refuses_of_the_layout(bases, tmp_path):
    """`adapmoe inspect` sees the same manifest."""
    for index, case in enumerate(make_cases()):
        if case.base == "int4-int8" and case.name.startswith(("manifest ", "name ")):
            pack = tmp_path / f"{index}.adapmoe"
            apply(case, index, pack, bases)
            print(case.name)
            with pytest.raises(PackError, match=pack.name):
                _core.inspect_pack(str(pack))
    assert json.loads(_core.inspect_pack(str(bases / "int4-int8")))["format"] == "adapmoe-pack"
