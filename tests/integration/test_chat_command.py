# SPDX-License-Identifier: Apache-2.0
"""`adapmoe chat` in a process of its own: pipes, a terminal, and real signals."""

import os
import pty
import signal
import subprocess
import sys

import pytest

from adapmoe import LLM, SamplingParams

COMMAND = [sys.executable, "-m", "adapmoe.cli", "chat"]
SLOW = ["--kernels", "scalar", "--threads", "1", "--ignore-eos", "--max-context", "2000"]


@pytest.fixture
def chat(pack_factory):
    """Start the command; stdin is a pipe or what is given."""
    started = []

    def start(*options, stdin=subprocess.PIPE):
        started.append(
            subprocess.Popen(
                [*COMMAND, str(pack_factory()), *options],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_script_gets_the_answers_of_the_library(chat, pack_factory):
    process = chat("-n", "12", "--system", "Answer.", "--memory", "1GiB")
    out, err = process.communicate("What is a list?\nAnd a set?\n/stats\n", timeout=60)
    assert process.returncode == 0, err
    assert "from the KV" in err
    messages = [{"role": "system", "content": "Answer."}]
    expected = ""
    with LLM(pack_factory()) as llm:
        for question in ("What is a list?", "And a set?"):
            messages.append({"role": "user", "content": question})
            text = llm.chat(messages, SamplingParams(max_tokens=12)).text
            messages.append({"role": "assistant", "content": text})
            expected += text + "\n"
    assert out == expected


def test_ctrl_c_stops_the_answer_and_not_the_program(chat):
    process = chat(*SLOW)
    process.stdin.write("Hello\n")
    process.stdin.flush()
    assert process.stdout.read(1)  # the answer has begun
    process.send_signal(signal.SIGINT)
    process.stdin.write("/stats\n/exit\nnever read\n")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "stopped" in err
    assert "interrupt" in err  # how the statistics say that it ended
    assert "Traceback" not in err


def test_on_a_terminal_ctrl_c_at_the_prompt_does_not_leave_and_ctrl_d_does(chat):
    ours, theirs = pty.openpty()
    process = chat("-n", "4", stdin=theirs)
    os.close(theirs)
    for line in process.stderr:
        if "Ctrl-D leaves" in line:
            break
    assert process.stdout.read(2) == "> "
    process.send_signal(signal.SIGINT)
    os.write(ours, b"\n")  # wakes a read that began just after the signal
    assert "Ctrl-D leaves" in process.stderr.readline() + process.stderr.readline()
    os.write(ours, b"Hello\n")
    os.write(ours, b"\x04")
    out, err = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0, err
    assert out.count("> ") >= 2
    assert len(out) > 10
    assert "Traceback" not in err
