# SPDX-License-Identifier: Apache-2.0
"""The one place where doctor runs other programs."""

import shutil
import subprocess
from collections.abc import Sequence

_SECONDS = 5.0
_SBIN = "/usr/sbin:/sbin"  # where nvpmodel is, and where users have no PATH to


def run_command(words: Sequence[str]) -> str | None:
    """Run a program that only reports.

    Returns:
        What it wrote to stdout; None if it is missing, fails, or takes longer than five seconds.
    """
    program = shutil.which(words[0]) or shutil.which(words[0], path=_SBIN)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
