# SPDX-License-Identifier: Apache-2.0
"""What tests let other processes do: functions that a spawned process can import."""

from adapmoe import LLM, SamplingParams

PARAMS = SamplingParams(max_tokens=24, ignore_eos=True)


def generate_with(llm):
    llm.generate([1, 2], PARAMS)


def generate_from(path, options, queue):
    with LLM(path, **options) as mine:
        queue.put(mine.generate([1, 2], PARAMS).token_ids)
