# SPDX-License-Identifier: Apache-2.0
"""Shell completion, as the scripts that typer installs ask for it."""

import os
import subprocess
import sys

import pytest


def adapmoe(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "adapmoe.cli", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return done.stdout


def completions(shell, line):
    words = line.split()
    return adapmoe(
        _ADAPMOE_COMPLETE=f"complete_{shell}",
        _TYPER_COMPLETE_ARGS=line,  # zsh and fish
        _TYPER_COMPLETE_FISH_ACTION="get-args",
        COMP_WORDS=line,  # bash
        COMP_CWORD=str(len(words) if line.endswith(" ") else len(words) - 1),
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_verbs_and_options_are_completed(shell):
    found = completions(shell, "adapmoe ")
    for verb in ("run", "chat", "eval", "inspect", "export", "verify"):
        assert verb in found
    assert "--repetition-penalty" in completions(shell, "adapmoe run --rep")


def test_completion_can_be_shown_and_installed(tmp_path):
    by_name = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    assert "_ADAPMOE_COMPLETE=complete_bash" in adapmoe("--show-completion", "bash", **by_name)
    assert "installed" in adapmoe("--install-completion", "bash", **by_name)
    installed = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_ADAPMOE_COMPLETE" in path.read_text() for path in installed)
    assert "--install-completion" in adapmoe("--help")
