# SPDX-License-Identifier: Apache-2.0
"""A small Ubuntu of its own per test: commands inside it, and what has changed in it."""

import subprocess
from pathlib import Path

from support.source.source_tree import ROOT

IN_ROOT = ROOT / "tests/support/deb/in_root.sh"
# Records of what was done, which no package owns; and the test's own files.
RECORDS = ("mnt/", "var/lib/dpkg/", "var/log/", "var/cache/ldconfig/", "etc/passwd", "etc/group")
RECORDS += ("etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid", "etc/.pwd.lock")


class CleanRoot:
    """What `make_root.sh` archived, unpacked."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.path = folder
        folder.mkdir()
        subprocess.run(["tar", "-C", folder, "-xf", archive], check=True)
        # Nobody needs these files after a power failure; waiting for the disk takes a minute.
        (folder / "etc/dpkg/dpkg.cfg.d/unsafe").write_text("force-unsafe-io\n")

    def try_(self, *words, timeout=300) -> subprocess.CompletedProcess:
        """Runs a command inside."""
        return subprocess.run(
            [IN_ROOT, self.path, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )

    def __call__(self, *words, timeout=300) -> str:
        """The output of a command that must succeed."""
        done = self.try_(*words, timeout=timeout)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def files(self) -> set[str]:
        """Every file and folder, but for records."""
        names = subprocess.run(
            ["find", ".", "-xdev", "-printf", "%P\\n"],
            cwd=self.path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()
        return {name for name in names if name and not name.startswith(RECORDS)}
