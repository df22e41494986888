# SPDX-License-Identifier: Apache-2.0
"""shellcheck over every shell script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.source.source_tree import ROOT, relative, source_files

PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
SHELLCHECK = shutil.which("shellcheck", path=PATH)
SCRIPTS = [ROOT / ".ci/run", *source_files((".sh",))]


@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck: run `make venv`")
@pytest.mark.parametrize("script", SCRIPTS, ids=relative)
def test_shellcheck_finds_nothing(script):
    done = subprocess.run([SHELLCHECK, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
