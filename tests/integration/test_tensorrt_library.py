# SPDX-License-Identifier: Apache-2.0
"""TensorRT where pip puts it, here a library that has its name: sessions and doctor find it."""

import os
import subprocess
import sys

import pytest

from support.source.tools import run

NAME = "libnvinfer.so.10"
FIND = f"""
import ctypes
try:
    print("found", ctypes.CDLL("{NAME}").getInferLibVersion())
except OSError:
    print("not found")
"""
OPEN = """
import sys
import adapmoe
try:
    adapmoe.LLM(sys.argv[1], backend="cuda", arithmetic=sys.argv[2], exact=False)
except adapmoe.AdapmoeError:
    pass
"""
EXAMINE = """
from adapmoe.doctor.machine import Machine
from adapmoe.doctor.gpu import examine_tensorrt
print(examine_tensorrt(Machine())[0].seen)
"""


@pytest.fixture
def site(tmp_path):
    """A folder of Python packages with the one that `pip install tensorrt` brings."""
    package = tmp_path / "tensorrt_libs"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    source = tmp_path / "library.cc"
    source.write_text('extern "C" int getInferLibVersion() { return 100300; }')
    command = [os.environ.get("CXX", "g++"), "-shared", "-fPIC", f"-Wl,-soname,{NAME}"]
    subprocess.run([*command, source, "-o", package / NAME], check=True)
    return tmp_path


def python(site, code, *arguments):
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    done = run([sys.executable, "-c", code], *arguments, env={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("experts", "found"), [("tensorrt", "found 100300"), ("auto", "not found")]
)
def test_only_a_session_with_engines_loads_it(site, pack_factory, experts, found):
    assert python(site, FIND).stdout == "not found\n"
    done = python(site, OPEN + FIND, pack_factory(), experts)
    assert (done.stdout, done.stderr) == (found + "\n", "")


def test_what_cannot_be_loaded_is_said(site, pack_factory):
    library = site / "tensorrt_libs" / NAME
    library.write_bytes(b"not a library")
    done = python(site, OPEN + FIND, pack_factory(), "tensorrt")
    assert done.stdout == "not found\n"
    assert f"TensorRT cannot be loaded: {library}: " in done.stderr


def test_doctor_names_it(site):
    library = site / "tensorrt_libs" / NAME
    assert python(site, EXAMINE).stdout == f"{library}, TensorRT 10.3.0\n"
    library.unlink()
    assert str(library) not in python(site, EXAMINE).stdout
