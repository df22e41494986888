# SPDX-License-Identifier: Apache-2.0
"""The cgroups of this process, versions 1 and 2: their limits, and those of their parents."""

from collections.abc import Iterator

from adapmoe.kernel_tree import KernelTree

_MOUNT = "sys/fs/cgroup"


def control_files(tree: KernelTree, controller: str, unified: str, legacy: str) -> Iterator[str]:
    """Where a limit may stand, as `tree` takes it: called `unified` in version 2, else `legacy`."""
    for line in (tree.text("proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            mount, name = _MOUNT, unified
        elif controller in controllers.split(","):
            mount, name = f"{_MOUNT}/{controller}", legacy
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            yield "/".join([mount, *parts[:depth], name])
