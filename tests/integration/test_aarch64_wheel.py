# SPDX-License-Identifier: Apache-2.0
"""The wheel for 64-bit Arm: what it holds, and that a Python of that architecture imports it."""

import json
import struct
import subprocess
import zipfile

import pytest

from adapmoe import __version__
from support.build.wheels import module_name, wheel_tags
from support.source.source_tree import ROOT

pytestmark = pytest.mark.aarch64

PYTHON = ROOT / "build/aarch64/python/bin/python"
EM_AARCH64 = 183
CHECK = ROOT / "tests/support/build/check_core.py"


@pytest.fixture(scope="module")
def wheel():
    found = list((ROOT / "build/aarch64/wheel").glob("*.whl"))
    if not found:
        pytest.skip("no build/aarch64/wheel: `make aarch64` says why")
    (path,) = found
    return path


def test_the_name_says_what_it_is_for(wheel):
    assert wheel.name == f"adapmoe-{__version__}-{wheel_tags()}-linux_aarch64.whl"
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"adapmoe-{__version__}.dist-info/WHEEL").decode()
    assert f"Tag: {wheel_tags()}-linux_aarch64\n" in text
    assert "Root-Is-Purelib: false" in text


def test_it_holds_the_package_and_one_module_for_arm(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        expected = f"adapmoe/{module_name('_core', 'aarch64')}"
        module = archive.read(expected)
    assert [name for name in names if name.endswith(".so")] == [expected]
    assert {"adapmoe/llm.py", "adapmoe/_core.pyi", "adapmoe_export/cli.py"} <= set(names)
    assert module[:5] == b"\x7fELF\x02"
    assert struct.unpack_from("<H", module, 18) == (EM_AARCH64,)


def test_a_python_for_arm_imports_it_and_reads_a_pack(wheel, tmp_path, pack_factory):
    if not PYTHON.exists():
        pytest.skip(f"no {PYTHON.relative_to(ROOT)}: run tests/support/build/fetch_arm_python.sh")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [PYTHON, CHECK, tmp_path, pack_factory()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["version"] == __version__
    assert seen["kernels"] == ["neon", "scalar"]
    assert seen["backend"] == "cpu/neon"
    assert seen["begun"] == seen["resident"] == seen["experts"] > 0
