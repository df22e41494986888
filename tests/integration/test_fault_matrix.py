# SPDX-License-Identifier: Apache-2.0
"""Every fault in every phase: what the caller sees, and that the next request is right.

The table "When something fails" in runtime/README.md names these tests.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from adapmoe import LLM
from adapmoe.errors import NonFiniteError, PackError
from support.disk.faults import (
    DELAY,
    FileFault,
    Shim,
    build_shim,
    make_control,
    overwrite,
    preload,
)

SUPPORT = Path(__file__).resolve().parents[1] / "support"
IDS = np.arange(3, 27, dtype=np.int32)
REMEDY = r"(copy|export) .*the pack again"
READ_ERROR = ("ReadError", rf"{{file}}: cannot read \d+ bytes at offset \d+: {{why}} .*{REMEDY}")
TILE_ERROR = (
    "PackError",
    rf"experts.safetensors: expert \d of layer \d, tile \d at offset \d+: CRC32C is .*{REMEDY}",
)
TENSOR_ERROR = ("PackError", rf"dense.safetensors: tensor \S+ at offset \d+: CRC32C is .*{REMEDY}")


def read_error(file, why):
    return READ_ERROR[0], READ_ERROR[1].format(file=file, why=why)


def read_errors(why):
    experts = read_error("experts.safetensors", why)
    return {"open": read_error("dense.safetensors", why), "prefill": experts, "decode": experts}


# Fault -> phase -> (exception, message); a phase that is missing sees nothing but the right bits.
EXPECTED = {
    "eio-once": {},
    "eio-forever": read_errors("Input/output error"),
    "short-half": {},
    "short-512-twice": {},
    "short-512-forever": {  # the page cache takes any size, O_DIRECT whole pages only
        "prefill": read_error("experts.safetensors", "only 512 bytes came"),
        "decode": read_error("experts.safetensors", "only 512 bytes came"),
    },
    "flip": {
        "open": ("PackError", rf"dense.safetensors: .*{REMEDY}"),
        "prefill": TILE_ERROR,
        "decode": TILE_ERROR,
    },
    "truncated": {
        "open": ("PackError", rf"dense.safetensors: \d+ bytes, the manifest says \d+; {REMEDY}"),
        "prefill": read_error("experts.safetensors", "the file ends there"),
        "decode": read_error("experts.safetensors", "the file ends there"),
    },
    "overwritten": {"open": TENSOR_ERROR, "prefill": TILE_ERROR, "decode": TILE_ERROR},
    "slow": {phase: ("KeyboardInterrupt", "") for phase in ("open", "prefill", "decode")},
}


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    return build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def pack(pack_factory, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(pack_factory(tile_width=64), tmp_path / "model.adapmoe")


@pytest.fixture
def other(pack_factory, tiny_checkpoint, tmp_path):
    """A pack of the same sizes and other weights."""
    import ml_dtypes  # noqa: F401 - teaches NumPy bfloat16
    from safetensors.numpy import load_file, save_file

    from adapmoe_export import export_pack

    source = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, source)
    for shard in source.glob("*.safetensors"):
        tensors = {name: -values for name, values in load_file(shard).items()}
        save_file(tensors, shard)
    export_pack(source, tmp_path / "other.adapmoe", tile_width=64)
    return tmp_path / "other.adapmoe"


def start(shim, control, script, *args):
    make_control(control)
    paths = [str(SUPPORT.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | preload(shim, control) | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(
        [sys.executable, str(SUPPORT / "disk" / script), *map(str, args)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def digests(pack):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pack.iterdir()}


def fault_report(shim, tmp_path, fault, reader, *packs):
    process = start(shim, tmp_path / "control", "fault_driver.py", fault, reader, *packs)
    report = result_of(process)
    if report["reader"] != reader:
        pytest.skip(f"{reader} cannot be used here")
    return report


@pytest.mark.parametrize("fault", EXPECTED)
@pytest.mark.parametrize("reader", ["pread", "io_uring"])
def test_fault(fault, reader, shim, pack, tmp_path):
    before = digests(pack)
    report = fault_report(shim, tmp_path, fault, reader, pack)
    for phase in ("open", "prefill", "decode"):
        seen = report[phase]
        error, pattern = EXPECTED[fault].get(phase, (None, ""))
        assert seen["happened"], phase
        assert seen["error"] == error, (phase, seen)
        if error is None:
            assert seen["same_bits"], phase
        else:
            assert re.search(pattern, seen["message"]), (phase, seen["message"])
            assert seen.get("length_unchanged", True), phase
        if fault == "slow":
            assert seen["seconds"] < 2.5, phase
        assert seen["next_request_right"], phase
    assert report["idle"]["next_request_right"]
    assert digests(pack) == before


def test_pack_replaced_by_rename(shim, pack, other, tmp_path):
    report = fault_report(shim, tmp_path, "replaced", "pread", pack, other)
    for phase in ("prefill", "decode"):  # the open files are still the old ones
        assert report[phase]["error"] is None
        assert report[phase]["same_bits"]
    assert report["open"]["error"] is None
    assert not report["open"]["same_bits"]  # opened meanwhile: the new pack
    assert all(report[phase]["next_request_right"] for phase in ("open", "prefill", "decode"))
    assert report["idle"]["next_request_right"]


def test_two_processes_on_one_pack(shim, pack, tmp_path):
    processes = [
        start(shim, tmp_path / f"control{i}", "fault_driver.py", "eio-once", reader, pack)
        for i, reader in enumerate(("auto", "pread"))
    ]
    first, second = map(result_of, processes)
    assert first["bits"] == second["bits"]
    for report in (first, second):
        assert report["prefill"]["same_bits"]
        assert report["decode"]["same_bits"]


def test_killed_in_the_middle_of_a_step(shim, pack, tmp_path):
    before = digests(pack)
    undisturbed = fault_report(shim, tmp_path, "eio-once", "pread", pack)
    process = start(shim, tmp_path / "killed", "step_forever.py", pack)
    assert process.stdout.readline() == "ready\n"
    slow = Shim(tmp_path / "killed")
    slow.set(DELAY, delay_ms=200)
    while not slow.spoiled:  # a step is waiting for the disk
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=10)
    assert process.returncode == -9
    assert digests(pack) == before
    again = fault_report(shim, tmp_path, "eio-once", "pread", pack)
    assert again["bits"] == undisturbed["bits"]


def test_a_full_disk_is_not_noticed_because_nothing_is_written(shim, pack, tmp_path):
    process = start(shim, tmp_path / "control", "step_forever.py", pack, "--write-nothing")
    said = [process.stdout.readline() for _ in range(2)]
    process.kill()
    _, complaint = process.communicate(timeout=10)
    assert said == ["ready\n", "stepped\n"], complaint


def logits(pack, **options):
    with LLM(pack, max_context=64, **options) as llm, llm.new_sequence() as seq:
        return seq.prefill(IDS)


def test_verify_always_and_first_refuse_a_damaged_pack_and_never_trusts_it(pack):
    right = logits(pack)
    for file in ("dense.safetensors", "experts.safetensors"):
        damage = FileFault(pack, overwrite)
        damage.apply(file)
        for verify in ("always", "first"):
            with pytest.raises(PackError, match=f"{file}.*CRC32C"):
                logits(pack, verify=verify)
        with suppress(NonFiniteError):  # what such weights may give
            assert not np.array_equal(logits(pack, verify="never"), right)
        damage.lift()
    for verify in ("always", "first", "never"):
        assert np.array_equal(logits(pack, verify=verify), right)


@pytest.mark.parametrize("verify", ["always", "first"])
def test_verify_first_looks_once(pack, verify):
    with LLM(pack, max_context=256, experts_resident=0.01, verify=verify) as llm:
        seq = llm.new_sequence()
        seq.prefill(np.random.default_rng(0).integers(0, llm.vocab_size, 128))
        assert seq.last_stats.experts_used == 64  # so every tile was read and checked
        seq.reset()
        damage = FileFault(pack, overwrite)
        damage.apply("experts.safetensors")
        if verify == "always":
            with pytest.raises(PackError, match="CRC32C"):
                seq.prefill(IDS)
        else:
            seq.prefill(IDS)
        damage.lift()


@pytest.mark.memory
@pytest.mark.root
def test_a_memory_cgroup_is_respected(tmp_path):
    """`memory` and 64 MiB more are enough: nothing is killed, and asking for more is refused."""
    from support.packs.large_pack import make_large_pack

    parent = Path("/sys/fs/cgroup/memory")
    group = parent / f"adapmoe-test-{os.getpid()}"
    try:
        group.mkdir()
        assert (group / "memory.limit_in_bytes").exists()
    except (OSError, AssertionError) as error:
        pytest.skip(f"no memory cgroup (v1) can be made under {parent}: {error}")
    try:
        done = subprocess.run(
            [
                sys.executable,
                str(SUPPORT / "machine" / "cgroup_probe.py"),
                make_large_pack(tmp_path),
                group,
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, (done.returncode, done.stderr)
        report = json.loads(done.stdout)
        print(report)
        assert report["bytes_read"] > report["memory"]  # it streamed
        assert report["largest_usage"] <= report["limit"]
        assert "available" in report["refusal"]
    finally:
        group.rmdir()
