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

# The package as it is would import NumPy; the module does not need it until there are logits.
CHECK = """
import json, sys, time, types
site, pack = sys.argv[1:]
package = types.ModuleType("adapmoe")
package.__path__ = [site + "/adapmoe"]
sys.modules["adapmoe"] = package
from adapmoe import _core
manifest = json.loads(_core.inspect_pack(pack))
sizes = manifest["config"]["num_hidden_layers"], manifest["config"]["num_local_experts"]
experts = [(layer, expert) for layer in range(sizes[0]) for expert in range(sizes[1])]
session = _core.Session(pack, experts_resident=1.0, threads=1, max_context=64)
begun = session.warm(experts)  # reads every tile and looks at its checksum
end = time.monotonic() + 60
while len(session.resident_set()) < len(experts) and time.monotonic() < end:
    time.sleep(0.05)
print(json.dumps({
    "version": _core.__version__, "kernels": _core.build_info()["kernels"], "begun": begun,
    "resident": len(session.resident_set()), "experts": len(experts), "backend": session.backend,
}))
"""


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
        [PYTHON, "-c", CHECK, tmp_path, pack_factory()], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["version"] == __version__
    assert seen["kernels"] == ["neon", "scalar"]
    assert seen["backend"] == "cpu/neon"
    assert seen["begun"] == seen["resident"] == seen["experts"] > 0
