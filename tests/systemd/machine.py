# SPDX-License-Identifier: Apache-2.0
"""What both kinds of machine are made of: Ubuntu 22.04, as JetPack 6.2 has it, and the package."""

import os
import platform
import shutil
import subprocess
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUITE = "jammy"
PACKAGES = "systemd,systemd-sysv,udev,dbus,python3,liburing2,libgomp1,ca-certificates"
# What the check does not need: it would take a minute of emulation.
MASKED = (
    *("serial-getty@ttyS0.service", "console-getty.service", "systemd-logind.service"),
    *("systemd-resolved.service", "e2scrub_reap.service", "systemd-update-utmp.service"),
    *("systemd-update-utmp-runlevel.service", "apt-daily.timer", "apt-daily-upgrade.timer"),
    *("dpkg-db-backup.timer", "motd-news.timer", "e2scrub_all.timer", "fstrim.timer"),
)
PROGRAMS = ("debootstrap", "dpkg-deb", "unshare", "cc")
PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
HERE = Path(__file__).parent


class CannotRun(Exception):
    """The check cannot run on this computer; the message says why."""


def archive(*words):
    """What a function of jetson/deb/archive.sh prints."""
    script = f'. "{ROOT}/jetson/deb/archive.sh"; "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "archive", *words], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise CannotRun(done.stderr.strip().splitlines()[-1])
    return done.stdout.strip()


def check_host(folder, programs):
    """Raises CannotRun unless everything is there, or can be had, that a machine is made of."""
    if platform.machine() != "x86_64":
        raise CannotRun("its Ubuntu is for amd64")
    if os.geteuid() != 0:
        raise CannotRun("only root can make a root file system")
    missing = [name for name in (*PROGRAMS, *programs) if shutil.which(name, path=PATH) is None]
    if missing:
        raise CannotRun(f"no {', '.join(missing)} here")
    if (folder / SUITE).is_dir():
        return
    release = f"{archive('archive', SUITE)}/dists/{SUITE}/Release"
    try:
        urllib.request.urlopen(release, timeout=20).close()
    except OSError as error:
        raise CannotRun(f"{release} cannot be read: {error}") from None


def run(*words, log):
    """Runs a program, its output into a log; raises CalledProcessError."""
    settings = {"PATH": PATH, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    with log.open("ab") as file:
        subprocess.run(words, check=True, stdout=file, stderr=file, env=os.environ | settings)


def download(folder, log):
    """The release's packages, unpacked into folder/jammy and kept for the next time."""
    if (folder / SUITE).is_dir():
        return
    partial = folder / f"{SUITE}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    keys = archive("keyring", SUITE, str(folder / "keys"))
    run(
        # What it mounts goes with the namespace.
        *("unshare", "--mount", "debootstrap", "--variant=minbase"),
        *(f"--keyring={keys}", f"--include={PACKAGES}"),
        *(SUITE, partial, archive("archive", SUITE)),
        log=log,
    )
    shutil.rmtree(partial / "var/cache/apt/archives")
    shutil.rmtree(partial / "var/lib/apt/lists")
    partial.rename(folder / SUITE)


def make_root(folder, package, shim, report, log):
    """folder/root: the release, the package and what runs inside (guest/), reporting to a tty."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    run("cp", "-a", folder / SUITE, root, log=log)
    shutil.copy(package, root / "adapmoe.deb")
    # What it installs with may look at /proc, which goes with the namespace.
    install = 'mount -t proc proc "$0/proc" && chroot "$0" dpkg -i /adapmoe.deb'
    run("unshare", "--mount", "sh", "-ec", install, root, log=log)
    check = root / "opt/boot-check"
    shutil.copytree(HERE / "guest", check, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "jetson", check / "jetson")
    shutil.copy(ROOT / "tests/support/disk/faults.py", check)
    shutil.copy(shim, check)
    units = root / "etc/systemd/system"
    unit = (check / "boot-check.service").read_text()
    (units / "boot-check.service").write_text(unit.replace("/dev/console", report))
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "boot-check.service").symlink_to("../boot-check.service")
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    (root / "etc/hostname").write_text("boot-check\n")
    return root
