# SPDX-License-Identifier: Apache-2.0
"""adapmoe.service, as systemctl, the journal and its control group show it."""

import subprocess
import time
from pathlib import Path

NAME = "adapmoe.service"
DROP_INS = Path("/etc/systemd/system/adapmoe.service.d")
# Emulation is slow, and slower on a loaded computer.
EMULATED = subprocess.check_output(["systemd-detect-virt"], text=True).strip() == "qemu"
PATIENCE = 6 if EMULATED else 1
GROUP = Path("/sys/fs/cgroup/system.slice/adapmoe.service")


class NotHere(Exception):
    """What a step needs is not in this machine; the message says what."""


def run(*words, check=True, seconds=900):
    """A program's output; a RuntimeError with it if the program fails."""
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


def systemctl(*words, **options):
    return run("systemctl", *words, **options)


def show(name):
    """A property of the unit."""
    return systemctl("show", "--value", "-p", name, NAME)


def pid():
    return int(show("MainPID"))


def state():
    return systemctl("is-active", NAME, check=False)


def journal(since):
    """What the unit and systemd about it said since a time of time.time()."""
    run("journalctl", "--sync")
    return run("journalctl", "-u", NAME, "--since", f"@{since:.3f}", "-o", "cat", "--no-pager")


def has_controller(name):
    """Whether control groups can limit this: memory, io."""
    return name in Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()


def need_controller(name):
    """Raises NotHere if control groups cannot limit this."""
    if not has_controller(name):
        raise NotHere(f"control groups cannot limit {name} here")


def group(name):
    """A file of the unit's control group: its words."""
    return (GROUP / name).read_text().split()


def memory_now():
    return int(group("memory.current")[0])


def oom_kills():
    words = group("memory.events")
    return int(words[words.index("oom_kill") + 1])


def write_drop_in(name, text):
    DROP_INS.mkdir(exist_ok=True)
    (DROP_INS / name).write_text(text)
    systemctl("daemon-reload")


def remove_drop_in(name):
    (DROP_INS / name).unlink()
    systemctl("daemon-reload")


def wait(what, found, seconds):
    """Waits until `found()` is true, and returns that; an AssertionError after `seconds`.

    A slow machine has more time.
    """
    end = time.monotonic() + seconds * PATIENCE
    while not (value := found()):
        assert time.monotonic() < end, f"not within {seconds * PATIENCE} s: {what}"
        time.sleep(0.2)
    return value
