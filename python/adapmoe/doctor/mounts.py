# SPDX-License-Identifier: Apache-2.0
"""Which file system a folder lies on."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from adapmoe.kernel_tree import KernelTree

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo: device number "259:1", where it is mounted, type, and source."""

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
