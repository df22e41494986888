# SPDX-License-Identifier: Apache-2.0
"""A container with a systemd of its own. Of control groups it has only what this computer has."""

import contextlib
from pathlib import Path

import machine

PROGRAMS = ("systemd-nspawn",)
REPORT = "/dev/console"


def prepare(folder, package, pack, shim, log):
    """Its root."""
    machine.make_root(folder, package, shim, REPORT, log)


def words(folder, pack):
    """What starts the container; its report comes on stdout."""
    return [
        *("env", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"),
        *("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit"),
        *(
            "--private-network",
            "--timezone=off",
            "--console=read-only",
            "--directory",
            str(folder / "root"),
        ),
        f"--bind={pack.resolve()}:/var/lib/adapmoe/{pack.name}",
        *("--system-call-filter=@aio @keyring", "systemd.show_status=0"),
    ]


def clean_up():
    """Removes the control groups that systemd-nspawn leaves, which are empty."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names not in ("", "name=systemd"):
            continue
        for tree in ("unified", "systemd", "."):
            for name in ("payload", "supervisor"):
                folder = Path("/sys/fs/cgroup", tree, path.lstrip("/"), name)
                for group in [*sorted(folder.rglob("*/"), reverse=True), folder]:
                    with contextlib.suppress(OSError):
                        group.rmdir()
