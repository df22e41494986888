# SPDX-License-Identifier: Apache-2.0
"""What the kernel says about this machine and process: /proc, /sys, control groups, mounts."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


class KernelTree:
    """Files below a root such as `/`. What is missing or unreadable is None or empty.

    Paths have no leading slash: `proc/meminfo`. Tests use trees of their own.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` need not exist."""
        self._root = root

    @property
    def root(self) -> str:
        """The root as the core takes it: "" for the machine's own files."""
        return "" if self._root == Path("/") else str(self._root)

    def text(self, path: str) -> str | None:
        """The contents without surrounding white space and NULs; None if it cannot be read."""
        try:
            raw = (self._root / path).read_bytes()
        except OSError:
            return None
        return raw.decode(errors="replace").strip("\0 \t\r\n")

    def number(self, path: str) -> int | None:
        """The integer in a file; None if there is none."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """What is in a directory, sorted."""
        try:
            return sorted(entry.name for entry in (self._root / path).iterdir())
        except OSError:
            return []

    def glob(self, pattern: str) -> list[str]:
        """Matching paths, sorted, as `text` takes them."""
        try:
            found = sorted(self._root.glob(pattern))
        except OSError:
            return []
        return [path.relative_to(self._root).as_posix() for path in found]

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory, and it may be seen."""
        try:
            return (self._root / path).exists()
        except OSError:
            return False

    def fields(self, path: str) -> dict[str, str]:
        """{name: value} of a file of such lines, like `proc/meminfo`; the first wins."""
        found: dict[str, str] = {}
        for line in (self.text(path) or "").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                found.setdefault(name.strip(), value.strip())
        return found

    def meminfo(self, field: str) -> int | None:
        """A field of `proc/meminfo` in bytes."""
        words = self.fields("proc/meminfo").get(field, "").split()
        return int(words[0]) * 1024 if words and words[0].isdigit() else None


_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: device number such as "259:1", mount point, file system, and source."""

    device: str
    point: str
    kind: str
    source: str


def mount_of(tree: KernelTree, folder: str) -> Mount | None:
    """The mount that holds `folder`, an absolute path; None if mountinfo does not say."""
    best: Mount | None = None
    for line in (tree.text("proc/self/mountinfo") or "").splitlines():
        mount = _parse(line)
        if mount is None or not PurePosixPath(folder).is_relative_to(mount.point):
            continue
        if best is None or len(mount.point) >= len(best.point):  # a later mount hides an earlier
            best = mount
    return best


def _parse(line: str) -> Mount | None:
    fields, dash, rest = line.partition(" - ")
    left, right = fields.split(), rest.split()
    if not dash or len(left) < 5 or len(right) < 2:
        return None
    return Mount(left[2], _unescape(left[4]), right[0], _unescape(right[1]))


def _unescape(text: str) -> str:
    """Blanks are written as octal numbers."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def peak_rss_bytes() -> int:
    """The most memory that this process has ever had in RAM, file-backed pages included, in bytes.

    Read from the kernel's VmHWM: getrusage would report a larger parent's peak after fork and exec.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM line: peak memory cannot be measured here")
