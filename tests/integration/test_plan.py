# SPDX-License-Identifier: Apache-2.0
"""`adapmoe plan` on the tiny model: what it says, not how fast the machine is."""

import json

import pytest
from typer.testing import CliRunner

from adapmoe import LLM
from adapmoe.cli.main import app
from adapmoe.generation.sequence import as_token_ids
from adapmoe.planning.routing_sample import sample_from_text
from adapmoe.planning.service_memory import SERVER_BYTES

TEXT = "A function that returns the number of items in the list, or None if it is empty. " * 40


@pytest.fixture(scope="module")
def pack(pack_factory):
    return pack_factory(tile_width=64)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return str(path)


def plan(*words):
    return CliRunner().invoke(app, ["plan", *map(str, words), "--seconds", "1"])


def test_json(pack, text):
    done = plan(pack, "--memory", "13MiB", "--text", text, "--check", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["memory_bytes"] == 13 << 20
    assert found["floor_bytes"] < found["at_memory"]["memory_bytes"] < found["everything_bytes"]
    assert found["cycle_bytes"] < found["measured"]["token_bytes"]
    assert found["routing"] == "text"
    assert found["memory_max_bytes"] == found["recommended"]["memory"] + SERVER_BYTES
    rates = [p["hit_rate"] for p in found["curve"]]
    assert rates == sorted(rates)
    assert rates[-1] == 1.0
    reading = {"read_depth", "request_bytes"}
    assert set(found["recommended"]) == {"memory", "policy", "prefetch", "threads"} | reading
    assert len(found["check"]) == 3
    for row in found["check"]:
        assert row["predicted_tokens_per_s"] > 0
        assert row["measured_tokens_per_s"] > 0
        assert row["ratio"] > 0
        assert abs(row["predicted_hit_rate"] - row["measured_hit_rate"]) < 0.25


def test_tables(pack):
    done = plan(pack, "--memory", "1GiB")
    assert done.exit_code == 0, done.stderr
    for words in ("floor", "recommended", "predicted decoding", "everything fits", "MemoryMax="):
        assert words in done.stdout


def test_below_a_cycle_it_warns(pack, text):
    done = plan(pack, "--memory", "9.6MiB", "--text", text)
    assert done.exit_code == 0, done.stderr
    assert "warning" in done.stdout


def test_below_the_floor_it_refuses_with_the_bytes(pack):
    done = plan(pack, "--memory", "5MiB")
    assert done.exit_code == 1
    assert "below the floor" in done.stderr
    assert "MiB" in done.stderr


def test_a_short_text_is_wrong_usage(pack, tmp_path):
    (tmp_path / "short.txt").write_text("Too short.")
    done = plan(pack, "--text", tmp_path / "short.txt")
    assert done.exit_code == 2
    assert "tokens" in done.stderr


def test_routing_sampled_from_the_prompt_path_is_that_of_decoding(pack):
    with LLM(pack, max_context=256) as llm:
        geometry = llm.geometry
        ids = as_token_ids(llm.tokenizer.encode(TEXT)[:100], llm.vocab_size)
        sampled = sample_from_text(llm, geometry, ids)
        llm.record_trace(True)
        with llm.new_sequence() as sequence:
            for token in ids:
                sequence.decode(int(token))
        decoded = llm.trace()
    assert [visit[1:] for visit in sampled.visits] == [visit[1:] for visit in decoded.visits]
    assert sampled.passes == decoded.passes == len(ids)


def test_the_floor_is_where_run_begins(pack, text):
    """Both with the same context, so with the same KV cache."""
    for more in ([], ["--max-context", "512"]):
        done = plan(pack, "--memory", "20MiB", "--text", text, "--json", *more)
        assert done.exit_code == 0, done.stderr
        floor = json.loads(done.stdout)["floor_bytes"]
        words = ["run", str(pack), "-p", "a", "-n", "1", *more, "--memory"]
        assert CliRunner().invoke(app, [*words, str(floor)]).exit_code == 0
        assert CliRunner().invoke(app, [*words, str(floor - 4096)]).exit_code == 1


def test_a_server_of_several_sequences_needs_more(pack, text):
    def everything(*options):
        done = plan(pack, "--memory", "1GiB", "--text", text, "--json", *options)
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)["everything_bytes"]

    with LLM(pack, max_sequences=4) as llm:
        kv_bytes = llm.memory_split.kv_bytes
    assert everything("--max-sequences", "4") - everything() == pytest.approx(
        kv_bytes * 3 / 4, 4096
    )


def test_a_context_without_room_to_decode_is_wrong_usage(pack):
    done = plan(pack, "--memory", "20MiB", "--max-context", "1")
    assert done.exit_code == 2
    assert "--max-context must be at least 2" in done.stderr
