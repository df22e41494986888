# SPDX-License-Identifier: Apache-2.0
"""`adapmoe doctor` with the compiled core, on this machine and a real pack."""

import json
import os
import subprocess
import sys

import pytest

from adapmoe import LLM, PackError, _core


def doctor(*words):
    done = subprocess.run(
        [sys.executable, "-m", "adapmoe.cli", "doctor", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done


def test_it_says_what_a_session_will_use(pack_factory):
    pack = pack_factory()
    done = doctor(pack, "--json")
    assert done.returncode == 0, done.stdout
    found = {finding["topic"]: finding for finding in json.loads(done.stdout)["findings"]}
    with LLM(pack, max_context=64) as llm:
        assert (found["io_uring"]["status"] == "ok") == (llm.reader == "io_uring")
        if llm.backend.startswith("cpu/"):
            assert found["kernels"]["seen"].startswith(llm.backend.removeprefix("cpu/"))
    assert found["pack"]["status"] == "ok"
    assert found["build"]["status"] in ("ok", "note")


def test_a_folder_without_a_pack_is_a_problem(tmp_path):
    done = doctor(tmp_path, "--json")
    assert done.returncode == 1
    found = {finding["topic"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["pack"]["status"] == "problem"
    assert "manifest.json" in found["pack"]["seen"]
    assert list(tmp_path.iterdir()) == []


def test_a_broken_core_is_named_and_not_fatal(tmp_path):
    script = (
        "import runpy, sys; sys.modules['adapmoe._core'] = None; sys.argv = ['doctor', '--json']; "
        "runpy.run_module('adapmoe.cli.doctor', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 1, done.stderr
    (problem,) = (f for f in json.loads(done.stdout)["findings"] if f["status"] == "problem")
    assert problem["topic"] == "build"


def test_the_core_tells_about_its_build(tmp_path):
    info = _core.build_info()
    assert info["kernels"][-1] == "scalar"
    assert isinstance(info["cuda"], bool)
    assert set(info["tensorrt"]) <= {10, 11}
    with pytest.raises(PackError, match="none"):
        _core.io_uring_problem(str(tmp_path / "none"))
