# SPDX-License-Identifier: Apache-2.0
"""What the kernel and the distribution say about the machine, read from small text files."""

from pathlib import Path


class KernelTree:
    """Files below a root such as `/`. Whatever is missing or unreadable is None or empty.

    Paths are written without the leading slash: `proc/meminfo`. Tests pass trees of their own.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        """`root` need not exist."""
        self._root = root

    @property
    def root(self) -> str:
        """As the core takes it: "" for the machine's own files."""
        return "" if self._root == Path("/") else str(self._root)

    def text(self, path: str) -> str | None:
        """The contents without surrounding white space and NULs; None where it cannot be read."""
        try:
            raw = (self._root / path).read_bytes()
        except OSError:
            return None
        return raw.decode(errors="replace").strip("\0 \t\r\n")

    def number(self, path: str) -> int | None:
        """The integer in a file; None where there is none."""
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
        """Paths that match, sorted, written as they would be passed to `text`."""
        try:
            found = sorted(self._root.glob(pattern))
        except OSError:
            return []
        return [path.relative_to(self._root).as_posix() for path in found]

    def exists(self, path: str) -> bool:
        """Whether there is such a file or directory that may be seen."""
        try:
            return (self._root / path).exists()
        except OSError:
            return False

    def fields(self, path: str) -> dict[str, str]:
        """A file of `name: value` lines, such as `proc/meminfo`; the first of a name counts."""
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
