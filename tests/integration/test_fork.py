# SPDX-License-Identifier: Apache-2.0
"""A fork of a process with an open model: typed errors and a quiet end there, no effect here."""

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import threading
import traceback

import numpy as np
import pytest

from adapmoe import LLM, ForkError
from adapmoe._core import ReadProbe
from adapmoe.conversation import Conversation
from support.machine.other_process import PARAMS, generate_from, generate_with

OPTIONS = {"max_context": 256, "max_sequences": 2, "experts_resident": 0.25}
MATCH = r"opened in process \d+, and a fork of that process cannot use it: open the pack in"
IDS = np.arange(3, 43, dtype=np.int32)

# From Python 3.12 on, os.fork() warns where there are other threads; that there are is the point.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def in_a_fork(work, seconds=30):
    """Call `work` in a fork, which then ends as a program does; raises here what failed there."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        said = b""
        try:
            work()
        except BaseException:
            said = traceback.format_exc().encode()
        os.write(writing, said or b"ok")
        os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], seconds)
        said = os.read(reading, 1 << 16) if ready else b"the child hangs"
        if not ready:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    assert (said.decode(), status) == ("ok", 0)


@pytest.fixture(autouse=True)
def what_was_there_before():
    """Left alone by the children's garbage collection, which would copy all of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=["io_uring", "pread"])
def llm(request, pack_factory):
    opened = LLM(
        pack_factory(), reader="auto" if request.param == "io_uring" else "pread", **OPTIONS
    )
    yield opened
    opened.close()


async def all_chunks(stream):
    return [chunk async for chunk in stream]


# Everything that a user can call on what was opened before the fork.
USES = {
    "generate": lambda o: o.llm.generate("import os", PARAMS),
    "generate a stream": lambda o: next(o.llm.generate("import os", PARAMS, stream=True)),
    "generate_async": lambda o: asyncio.run(all_chunks(o.llm.generate_async([1], PARAMS))),
    "chat": lambda o: o.llm.chat([{"role": "user", "content": "hi"}], chat_template=TEMPLATE),
    "go on with a stream": lambda o: next(o.stream),
    "begin a stream": lambda o: next(o.fresh_stream),
    "go on with an asynchronous stream": lambda o: asyncio.run(all_chunks(o.async_stream)),
    "new_sequence": lambda o: o.llm.new_sequence(),
    "decode_batch": lambda o: o.llm.decode_batch([(o.sequence, 5)]),
    "set_memory": lambda o: o.llm.set_memory("1GiB"),
    "record_trace": lambda o: o.llm.record_trace(True),
    "trace": lambda o: o.llm.trace(),
    "timeline": lambda o: o.llm.timeline(),
    "memory_split": lambda o: o.llm.memory_split,
    "stats": lambda o: o.llm.stats,
    "free_sequences": lambda o: o.llm.free_sequences,
    "registration": lambda o: o.llm.registration,
    "reader": lambda o: o.llm.reader,
    "prefill": lambda o: o.sequence.prefill(IDS),
    "decode": lambda o: o.sequence.decode(5),
    "truncate": lambda o: o.sequence.truncate(0),
    "reset": lambda o: o.sequence.reset(),
    "fork": lambda o: o.sequence.fork(),
    "length": lambda o: o.sequence.length,
    "ask": lambda o: list(o.conversation.ask("and?", PARAMS)),
    "probe": lambda o: o.probe.seconds(1, 0, 0, 4096, 1),
}
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


class Opened:
    """One of everything, each in use."""

    def __init__(self, llm, folder):
        self.llm = llm
        self.probe = ReadProbe(str(llm.path / "experts.safetensors"), "auto", 1 << 16)
        self.fresh_stream = llm.generate([1, 2], PARAMS, stream=True)
        self.async_stream = llm.generate_async([1, 2], PARAMS)
        self.loop = asyncio.new_event_loop()  # kept: its thread and the stream's are at work
        self.loop.run_until_complete(anext(self.async_stream))
        self.loop.run_until_complete(self.async_stream.aclose())
        self.async_stream = llm.generate_async([1, 2], PARAMS)
        self.stream = llm.generate([1, 2], PARAMS, stream=True)
        next(self.stream)
        self.sequence = llm.new_sequence()
        self.sequence.prefill(IDS)
        self.conversation = Conversation.__new__(Conversation)
        self.conversation.__dict__.update(
            _llm=llm,
            _sequence=self.sequence,
            _chat_template=TEMPLATE,
            _turns=[],
            _pasts=[],
            system=None,
            _cached=IDS,
            last=None,
        )

    def close(self):
        self.stream.close()
        self.sequence.close()
        self.loop.close()


@pytest.fixture
def opened(llm, tmp_path):
    everything = Opened(llm, tmp_path)
    yield everything
    everything.close()


def outcome(use, opened):
    try:
        return f"returned {use(opened)!r}"
    except ForkError as error:
        return "refused" if re.search(MATCH, str(error)) else str(error)
    except Exception as error:
        return repr(error)


def test_every_use_in_a_fork_is_a_typed_error(opened):
    def work():
        found = {name: outcome(use, opened) for name, use in USES.items()}
        assert {name: what for name, what in found.items() if what != "refused"} == {}

    in_a_fork(work)
    in_a_fork(lambda: in_a_fork(work))
    rest = list(opened.stream)
    assert sum(len(chunk.token_ids) for chunk in rest) > 0
    assert opened.sequence.length == len(IDS)
    opened.sequence.decode(5)


def test_closing_in_a_fork_closes_nothing_here(opened):
    def work():
        opened.stream.close()
        asyncio.run(opened.async_stream.aclose())
        opened.sequence.close()
        opened.llm.close()
        opened.llm.close()

    in_a_fork(work)
    opened.sequence.decode(5)
    assert len(list(opened.stream)) > 0


def test_what_is_dropped_in_a_fork_waits_for_nobody(llm, tmp_path):
    held = [Opened(llm, tmp_path), llm]

    def work():
        nonlocal llm
        held.clear()
        llm = None
        gc.collect()

    in_a_fork(work)
    held[0].close()


@pytest.mark.parametrize("use", ["generate", "go on with a stream", "begin a stream", "prefill"])
def test_a_fork_while_other_threads_are_in_the_middle_of_steps(opened, use):
    """Whatever locks they hold at that moment. Here they go on, and compute the same bits."""
    alone = opened.sequence.prefill(IDS)
    opened.sequence.truncate(len(IDS))
    rows, stop, stepped = [], threading.Event(), threading.Semaphore(0)

    def step():
        while not stop.is_set():
            rows.append(opened.sequence.prefill(IDS))
            opened.sequence.truncate(len(IDS))
            stepped.release()

    def places():
        while not stop.is_set():
            with opened.llm.scheduler.slots._lock:
                pass

    def work():
        with pytest.raises(ForkError, match=MATCH):
            USES[use](opened)
        opened.stream.close()
        opened.sequence.close()
        opened.llm.close()
        opened.__dict__.clear()
        gc.collect()

    threads = [threading.Thread(target=target) for target in (step, places)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            assert stepped.acquire(timeout=60)  # it steps, before each fork and after the last
            in_a_fork(work)
        rows_before = len(rows)
        while len(rows) == rows_before:
            assert stepped.acquire(timeout=60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert all(np.array_equal(row, alone) for row in rows)


def test_a_fork_inside_an_asynchronous_stream(llm):
    async def main():
        texts = []
        async with llm.generate_async([1, 2], PARAMS) as stream:
            async for chunk in stream:
                texts.append(chunk.text)

                def work(stream=stream):
                    with pytest.raises(ForkError, match=MATCH):
                        asyncio.run(all_chunks(stream))

                if len(texts) < 4:
                    in_a_fork(work)
        return "".join(texts)

    assert asyncio.run(main()) == llm.generate([1, 2], PARAMS).text


def test_a_fork_can_open_the_pack_itself(llm):
    expected = llm.generate([1, 2], PARAMS).token_ids

    def work():
        with LLM(llm.path, **OPTIONS) as mine:
            assert mine.generate([1, 2], PARAMS).token_ids == expected
            stream = mine.generate_async([1, 2], PARAMS)
            chunks = asyncio.run(all_chunks(stream))
            assert [id for chunk in chunks for id in chunk.token_ids] == expected

    in_a_fork(work)


EXITS = """
import ctypes, os, sys
from adapmoe import LLM
llm = LLM(sys.argv[1], reader=sys.argv[2])
sequence = llm.new_sequence()
sequence.prefill([1, 2, 3])
child = os.fork()
if child == 0:
    ctypes.pythonapi.Py_Exit(7)  # the whole of Py_FinalizeEx
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sequence.decode(5)
"""


@pytest.mark.parametrize("reader", ["pread", "auto"])
def test_a_fork_that_exits_as_a_program_does(pack_factory, reader):
    """Modules are torn down and destructors run; neither waits, prints or crashes."""
    done = subprocess.run(
        [sys.executable, "-c", EXITS, str(pack_factory()), reader],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_multiprocessing_by_fork_says_what_to_do(llm, capfd):
    process = multiprocessing.get_context("fork").Process(target=generate_with, args=[llm])
    process.start()
    process.join(30)
    assert process.exitcode == 1
    assert "ForkError: this LLM was opened in process" in capfd.readouterr().err


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_opens_the_pack_in_the_child(llm, method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=generate_from, args=[llm.path, OPTIONS, queue])
    process.start()
    assert queue.get(timeout=60) == llm.generate([1, 2], PARAMS).token_ids
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_model_cannot_be_sent_to_another_process(llm, method):
    process = multiprocessing.get_context(method).Process(target=generate_with, args=[llm])
    with pytest.raises(TypeError, match="another process opens the pack itself"):
        process.start()


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps], ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "name", ["llm", "sequence", "stream", "async_stream", "conversation", "probe"]
)
def test_nothing_that_belongs_to_an_open_model_is_copied(opened, name, make):
    with pytest.raises(TypeError, match="cannot"):
        make(getattr(opened, name))
    opened.sequence.decode(5)
