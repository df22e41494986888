# SPDX-License-Identifier: Apache-2.0
"""What somebody must read to follow `LLM.generate`: ten files, as python/adapmoe/README.md says."""

import re
import sys
from pathlib import Path

import adapmoe
from support.source.source_tree import ROOT

PACKAGE = Path(adapmoe.__file__).parent
# Checks and measurements on the way: nobody needs to read them to understand the call.
LEAVES = {"checks.py", "errors.py", "machine/process.py", "machine/power.py"}
MAX_FILES = 10


def files_called(call):
    """The package's files whose functions run during `call()`."""
    found = set()

    def profile(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            found.add(path.relative_to(PACKAGE).as_posix())

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return found - LEAVES


def listed_files():
    """The table in the README's last section."""
    text = (ROOT / "python/adapmoe/README.md").read_text()
    section = text.partition("## What `LLM.generate` runs\n")[2]
    return re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE)


def test_generate_runs_through_the_files_that_the_readme_lists(open_llm):
    llm = open_llm()
    files = files_called(lambda: llm.generate("The first law", max_tokens=4, temperature=0.5))
    assert files == set(listed_files())
    assert len(files) <= MAX_FILES


def test_only_what_runs_is_found():
    params = adapmoe.SamplingParams  # imported when it is first asked for
    assert files_called(lambda: params(max_tokens=2)) == {"generation/params.py"}
