# SPDX-License-Identifier: Apache-2.0
"""The types that users see: mypy --strict accepts right programs and refuses wrong ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import adapmoe

pytest.importorskip("mypy")

RIGHT = """
import asyncio

import numpy as np
from numpy.typing import NDArray

import adapmoe
from adapmoe import LLM, SamplingParams


def banned(token_ids: list[int], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    logits[token_ids[-1]] = -np.inf
    return logits


async def stream(llm: LLM) -> str:
    parts = [chunk.text async for chunk in llm.generate_async("Hello")]
    async with llm.chat_async([{"role": "user", "content": "Hello"}]) as chunks:
        async for chunk in chunks:
            parts.append(chunk.text)
    return "".join(parts)


def main() -> None:
    params = SamplingParams(
        temperature=0.8, min_p=0.1, logit_bias={5: -1.0}, logits_processor=[banned], logprobs=3
    )
    with LLM("x.adapmoe", memory="8GiB", max_sequences=2) as llm:
        text: str = llm.generate("Hello", SamplingParams.of(params, max_tokens=64)).text
        texts: list[str] = [result.text for result in llm.generate(["a", "b"])]
        for chunk in llm.generate("Hello", stream=True):
            text += chunk.text
        for chunk in llm.chat([{"role": "user", "content": "Hello"}], stream=True):
            text += chunk.text
        with llm.new_sequence() as sequence:
            logits: NDArray[np.float32] = sequence.prefill([1, 2], all_logits=True)
            other = sequence.fork()
            other.truncate(1)
            logits = llm.decode_batch([(sequence, 5), (other, 5)])
            print(other.last_stats.bytes_read, logits.shape, texts)
        print(llm.set_memory("4GiB").expert_bytes, asyncio.run(stream(llm)))
        for token in llm.generate("Hello", params).logprobs or []:
            print(token.token_id, token.logprob, token.top)


try:
    main()
except adapmoe.ContextOverflowError as error:
    print(error)
"""

WRONG = {
    "SamplingParams(temperature='hot')": "arg-type",
    "SamplingParams.of(None, max_token=64)": "call-arg",
    "SamplingParams.of(max_tokens='64')": "arg-type|typeddict-item",
    "LLM('x').generate('Hello').txt": "attr-defined",
    "LLM('x').set_memory(1.5)": "arg-type",
    "LLM('x', eviction='lru')": "call-arg",
    "LLM('x').chat('Hello')": "arg-type|call-overload",
    "LLM('x').new_sequence().decode('a')": "arg-type",
}


def mypy(tmp_path, *programs):
    paths = []
    for number, program in enumerate(programs):
        paths.append(tmp_path / f"program_{number}.py")
        paths[-1].write_text(program)
    env = {**os.environ, "MYPY_CACHE_DIR": str(tmp_path / "cache")}
    home = Path(adapmoe.__file__).parents[1]
    if home.name != "site-packages":  # mypy finds those by itself and refuses to be told
        env["MYPYPATH"] = str(home)
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, *paths],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )


def test_the_package_says_that_it_is_typed():
    assert (Path(adapmoe.__file__).parent / "py.typed").exists()


def test_mypy_accepts_right_programs_and_refuses_wrong_ones(tmp_path):
    header = "from adapmoe import LLM, SamplingParams\n"
    done = mypy(tmp_path, RIGHT, *(header + line for line in WRONG))
    errors = done.stdout.splitlines()[:-1]
    assert errors, done.stderr
    assert not any("program_0.py" in line for line in errors), done.stdout
    for number, (line, code) in enumerate(WRONG.items(), start=1):
        found = [error for error in errors if f"program_{number}.py" in error]
        assert any(f"[{one}]" in error for error in found for one in code.split("|")), (line, found)
    assert not any("site-packages" in line or "adapmoe/" in line for line in errors), done.stdout
