# SPDX-License-Identifier: Apache-2.0
"""However a program ends while the core computes, it keeps its exit code and prints nothing."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

# What goes wrong at exit is a matter of microseconds; sanitizers take several times as long.
REPEATS = 1 if "ADAPMOE_SANITIZED" in os.environ else 2

BEGIN = """
import asyncio, atexit, os, signal, sys, threading, time
import numpy as np
from adapmoe import LLM, ClosedError, SamplingParams

def begin(work):
    "In a daemon thread; returns when it has begun."
    begun = threading.Event()
    def run():
        begun.set()
        work()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    begun.wait()
    time.sleep(float(sys.argv[2]))
    return thread

def for_ever(call):
    def work():
        while True:
            call()
    return work

IDS = np.arange(3, 259, dtype=np.int32)
LONG = SamplingParams(max_tokens=200, ignore_eos=True)

def open_llm(**options):
    return LLM(sys.argv[1], max_context=512, max_sequences=4, experts_resident=0.25, **options)
"""
OPEN = "llm = open_llm()\n"

# What the program does -> its exit code.
IN_A_DAEMON_THREAD = {
    "generate": OPEN + "begin(for_ever(lambda: llm.generate([1, 2], LONG)))",
    "stream": OPEN + "begin(for_ever(lambda: list(llm.generate([1, 2], LONG, stream=True))))",
    "prefill": OPEN
    + "s = llm.new_sequence(); begin(for_ever(lambda: (s.prefill(IDS), s.reset())))",
    "pread": "llm = open_llm(reader='pread')\nbegin(for_ever(lambda: llm.generate([1, 2], LONG)))",
    "four threads": OPEN + "for _ in range(4): begin(for_ever(lambda: llm.generate([1, 2], LONG)))",
    "open": "begin(for_ever(lambda: open_llm().close()))",
    "close": OPEN
    + "def work():\n"
    + "    try: for_ever(lambda: llm.generate([1, 2], LONG))()\n"
    + "    except ClosedError: pass\n"
    + "begin(work); begin(llm.close)",
    "asyncio": OPEN
    + "async def work():\n"
    + "    async for _ in llm.generate_async([1, 2], LONG): pass\n"
    + "begin(for_ever(lambda: asyncio.run(work())))",
    "caught": OPEN
    + "def work():\n"
    + "    try: llm.generate([1, 2], LONG)\n"
    + "    except Exception: pass\n"
    + "begin(for_ever(work))",
    "pack_matrix": "from adapmoe._core import pack_matrix\n"
    "weights = np.ones((512, 512), np.float32)\n"
    "begin(for_ever(lambda: pack_matrix(weights, 'int4', 32)))",
    "crc32c": "from adapmoe._core import crc32c\n"
    "data = np.zeros(1 << 26, np.uint8); begin(for_ever(lambda: crc32c(data)))",
    "read probe": "from adapmoe._core import ReadProbe\n"
    "probe = ReadProbe(sys.argv[1] + '/experts.safetensors', 'pread', 1 << 20)\n"
    "begin(for_ever(lambda: probe.seconds(2, 0, 0, 4096, 16)))",
}

IN_THE_MAIN_THREAD = {
    "never closed": (OPEN + "llm.generate([1, 2], LONG)", 0),
    "closed": (OPEN + "kept = [llm.new_sequence(), llm.stats]\nllm.close()", 0),
    "kept by a cycle": (OPEN + "llm.me = llm; kept = llm.new_sequence()", 0),
    "sys.exit in a stream": (
        OPEN + "for chunk in llm.generate([1, 2], LONG, stream=True): sys.exit(3)",
        3,
    ),
    "sys.exit in a context": (
        "with open_llm() as llm, llm.generate([1, 2], LONG, stream=True) as stream:\n"
        "    for chunk in stream: sys.exit(3)",
        3,
    ),
    "a stream left open": (
        OPEN + "stream = llm.generate([1, 2], LONG, stream=True); next(stream)",
        0,
    ),
    "asyncio left while a step runs": (
        OPEN
        + "async def main():\n"
        + "    stream = llm.generate_async(IDS, LONG)\n"
        + "    task = asyncio.create_task(anext(stream))\n"
        + "    await asyncio.sleep(float(sys.argv[2]))\n"
        + "    sys.exit(3)\n"
        + "asyncio.run(main())",
        3,
    ),
    "an event loop that is never run again": (
        OPEN
        + "loop = asyncio.new_event_loop()\n"
        + "stream = llm.generate_async(IDS, LONG)\n"
        + "async def first(): return asyncio.ensure_future(anext(stream))\n"
        + "task = loop.run_until_complete(first())\n"
        + "loop.run_until_complete(asyncio.sleep(0.001))\n"
        + "task._log_destroy_pending = False",
        0,
    ),
    "closed by an exit hook": (
        "atexit.register(lambda: llm.close())\n"
        + OPEN
        + "begin(for_ever(lambda: llm.generate([1, 2], LONG)))",
        0,
    ),
    "used by an exit hook": (
        "atexit.register(lambda: print(len(llm.generate([1, 2], LONG).token_ids)))\n" + OPEN,
        0,
    ),
    "an exit hook that joins a worker": (
        "stop = threading.Event()\n"
        "atexit.register(lambda: (stop.set(), thread.join()))\n"
        + OPEN
        + "def work():\n"
        + "    while not stop.is_set(): llm.generate([1, 2], LONG)\n"
        + "thread = begin(work)",
        0,
    ),
    "an exit hook that needs a worker's lock": (
        "lock = threading.Lock()\n"
        "atexit.register(lambda: lock.acquire())\n"
        + OPEN
        + "def work():\n"
        + "    with lock: for_ever(lambda: llm.generate([1, 2], LONG))()\n"
        + "begin(work)",
        0,
    ),
}

JOIN = """
def work():
    while not done: llm.generate([1, 2], LONG)
done = False
llm = open_llm()
thread = threading.Thread(target=work)
thread.start()
try:
    print("ready", flush=True)
    thread.join()
except KeyboardInterrupt:
    sys.exit(130)  # and Python joins it once more
"""


@pytest.fixture
def popen():
    """Start programs; those that a failed test leaves are killed."""
    started = []

    def start(command):
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def start(popen, pack_factory):
    """Start a program of this file that is given the pack and a number of seconds."""

    def start_one(program, seconds=0.0):
        return popen([sys.executable, "-c", BEGIN + program, str(pack_factory()), str(seconds)])

    return start_one


def finish(process):
    """(exit code, stdout, stderr)."""
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def assert_no_crash(code, err):
    for sign in ("terminate called", "Fatal Python", "leaked", "core dumped", "FATAL"):
        assert sign not in err, err
    assert code not in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS), err


@pytest.mark.parametrize("what", IN_A_DAEMON_THREAD)
def test_the_program_ends_while_a_daemon_thread_is_in_the_core(start, what):
    delays = [0.005 * 9**i for i in range(REPEATS)]
    for process in [start(IN_A_DAEMON_THREAD[what], delay) for delay in delays]:
        code, _, err = finish(process)
        assert_no_crash(code, err)
        assert (code, err) == (0, "")


@pytest.mark.parametrize("what", IN_THE_MAIN_THREAD)
def test_the_program_ends_by_its_main_thread(start, what):
    program, expected = IN_THE_MAIN_THREAD[what]
    for process in [start(program, delay) for delay in (0.01, 0.05)]:
        code, out, err = finish(process)
        assert_no_crash(code, err)
        assert (code, err) == (expected, "")
        if "print(" in program:
            assert out == "200\n"


def test_an_error_that_nobody_catches_is_all_that_is_printed(start):
    """The traceback keeps the model alive until the end."""
    program = OPEN + "def f(llm, sequence): raise OSError('mine')\nf(llm, llm.new_sequence())"
    code, _, err = finish(start(program))
    assert_no_crash(code, err)
    assert code == 1
    assert err.splitlines()[-1] == "OSError: mine"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_main_thread_joins_a_worker(start, number):
    """The first Ctrl-C ends the program's own join, the second that of Python's exit."""
    for process in [start(JOIN) for _ in range(REPEATS)]:
        assert process.stdout.readline() == "ready\n"
        for _ in range(2):
            time.sleep(random.uniform(0.01, 0.1))
            process.send_signal(number)
        code, _, err = finish(process)
        assert_no_crash(code, err)
        # The second may come before Python's own join and is then what ends the program.
        assert code in ((130, -number) if number == signal.SIGINT else (-number,)), err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time_ends_run(popen, pack_factory, number):
    command = [sys.executable, "-m", "adapmoe.cli", "run", str(pack_factory()), "-p", "import"]
    command += ["-n", "100", "--ignore-eos", "--experts-resident", "25%"]
    began = time.monotonic()
    finish(popen(command))
    whole = time.monotonic() - began
    for i in range(2 * REPEATS):
        process = popen(command)
        time.sleep(whole * (i + random.random()) / (2 * REPEATS))
        process.send_signal(number)
        code, _, err = finish(process)
        assert_no_crash(code, err)
        assert code in (0, 130, -number), err
