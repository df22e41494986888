# SPDX-License-Identifier: Apache-2.0
"""The compiled modules are what the wheel's name says: for one Python, or for 3.12 and later."""

import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from adapmoe import _core, _testing
from support.build.wheels import STABLE_SINCE, module_name, wheel_tags

# Of the names with an underscore that a module takes from Python, those of the stable ABI.
STABLE = {
    "_PyObject_GC_New",
    "_PyObject_New",
    "_PyWeakref_RefType",
    "_Py_Dealloc",
    "_Py_DecRef",
    "_Py_EllipsisObject",
    "_Py_FalseStruct",
    "_Py_IncRef",
    "_Py_NoneStruct",
    "_Py_NotImplementedStruct",
    "_Py_TrueStruct",
}


@pytest.mark.parametrize("module", [_core, _testing], ids=lambda module: module.__name__)
def test_the_name_of_a_module(module):
    name = module.__name__.rpartition(".")[2]
    assert Path(module.__file__).name == module_name(name, platform.machine())


def test_the_tags_of_the_wheel():
    try:
        text = distribution("adapmoe").read_text("WHEEL")
    except PackageNotFoundError:
        pytest.skip("not installed from a wheel: run `make venv`")
    (tag,) = [line for line in text.splitlines() if line.startswith("Tag:")]
    assert tag.startswith(f"Tag: {wheel_tags()}-linux_")


@pytest.mark.skipif(sys.version_info < STABLE_SINCE, reason="has a wheel of its own")
def test_nothing_of_this_very_python_is_used():
    nm = shutil.which("nm")
    assert nm, "nm comes with the compiler: apt-get install binutils"
    words = [nm, "-D", "--undefined-only", _core.__file__]
    listing = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    names = {line.split()[-1] for line in listing.splitlines()}
    assert "PyModuleDef_Init" in names or "PyModule_FromDefAndSpec2" in names, sorted(names)
    private = {name for name in names if name.startswith("_Py")}
    assert private <= STABLE


@pytest.mark.parametrize(
    ("version", "tags", "module"),
    [
        ((3, 10), "cp310-cp310", "_core.cpython-310-aarch64-linux-gnu.so"),
        ((3, 11), "cp311-cp311", "_core.cpython-311-aarch64-linux-gnu.so"),
        ((3, 12), "cp312-abi3", "_core.abi3.so"),
        ((3, 14), "cp312-abi3", "_core.abi3.so"),
    ],
)
def test_what_other_pythons_get(version, tags, module):
    assert wheel_tags(version) == tags
    assert module_name("_core", "aarch64", version) == module
