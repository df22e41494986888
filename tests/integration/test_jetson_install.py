# SPDX-License-Identifier: Apache-2.0
"""jetson/install.sh, with a folder in the place of a device and stand-ins for what needs root."""

import os
import subprocess

import pytest

from support.source_tree import ROOT

INSTALL = ROOT / "jetson" / "install.sh"


def run(*words, **environment):
    return subprocess.run(
        list(map(str, words)),
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def device(tmp_path):
    """A root, a PATH whose programs are written down in `calls` instead of run, and a runner."""
    root, tools, calls = tmp_path / "root", tmp_path / "tools", tmp_path / "calls"
    root.mkdir()
    tools.mkdir()
    log = f'echo "$(basename "$0") $*" >>{calls}\n'
    scripts = {
        "useradd": f"touch {tmp_path}/user",
        "userdel": f"rm {tmp_path}/user",
        "usermod": "",
        "chown": "",
        "getent": f'[ "$1" = group ] || [ -e {tmp_path}/user ]',
        # What `python -m venv [options] FOLDER` leaves behind.
        "python3": f'case "$*" in *venv\\ *) for last; do :; done; mkdir -p "$last/bin"; '
        f'cp {tools}/chown "$last/bin/python"; cp {tools}/chown "$last/bin/adapmoe" ;; esac',
        "g++": "echo 12",
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{log}{script}\n")
        (tools / name).chmod(0o755)

    def install(*options):
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        done = run(INSTALL, *options, ADAPMOE_ROOT=root, PATH=path, CXX=tools / "g++")
        done.calls = calls.read_text().splitlines() if calls.exists() else []
        return done

    install.root = root
    return install


def everything_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_dry_run_says_it_and_does_nothing(device):
    done = device("--dry-run")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if line.startswith("would run: ")]
    for words in (
        "useradd --system",
        "-m venv",
        "pip install --upgrade",
        "ADAPMOE_CUDA=AUTO",
        "ln",
    ):
        assert any(words in line for line in said), words
    assert everything_in(device.root) == []
    assert not any(call.startswith(("useradd", "chown", "usermod")) for call in done.calls)


def test_install_again_and_uninstall(device):
    (device.root / "etc").mkdir()
    (device.root / "etc/nv_tegra_release").touch()
    before = everything_in(device.root)
    first = device()
    assert first.returncode == 0, first.stderr
    assert "run: useradd" in first.stdout
    assert "--system-site-packages" in first.stdout  # a Jetson
    link = device.root / "usr/local/bin/adapmoe"
    assert str(link.readlink()) == "/opt/adapmoe/venv/bin/adapmoe"
    record = (device.root / "opt/adapmoe/installed.txt").read_text()
    again = device()
    assert again.returncode == 0, again.stderr
    assert "useradd" not in again.stdout
    assert "run: ln" not in again.stdout
    assert "pip install --upgrade" in again.stdout
    assert (device.root / "opt/adapmoe/installed.txt").read_text() == record
    would = device("--uninstall", "--dry-run")
    assert "would run: userdel adapmoe" in would.stdout
    assert link.is_symlink()
    done = device("--uninstall")
    assert done.returncode == 0, done.stderr
    assert "userdel adapmoe" in done.calls
    left = {path for path in everything_in(device.root) if (device.root / path).is_file()}
    assert left == {path for path in before if (device.root / path).is_file()}
    assert not (device.root / "opt/adapmoe").exists()
    assert device("--uninstall").returncode == 1


def test_packs_stay(device):
    assert device().returncode == 0
    pack = device.root / "var/lib/adapmoe/mixtral.adapmoe"
    pack.mkdir()
    done = device("--uninstall")
    assert done.returncode == 0
    assert "stays, because something is in it: /var/lib/adapmoe" in done.stdout
    assert pack.exists()


def test_what_others_made_is_left_alone(device):
    other = device.root / "usr/local/bin/adapmoe"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    (device.root / "var/lib/adapmoe").mkdir(parents=True)
    (device.root.parent / "user").touch()
    done = device()
    assert done.returncode == 0, done.stderr
    assert "is something else and stays" in done.stdout
    assert device("--uninstall").returncode == 0
    assert other.read_text() == "mine"
    assert (device.root / "var/lib/adapmoe").exists()
    assert (device.root.parent / "user").exists()
    (device.root / "opt/adapmoe/something").mkdir(parents=True)
    refused = device()
    assert refused.returncode == 1
    assert "was not made by this script" in refused.stderr


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--what"], 2, "Usage"),
        (["--prefix"], 1, "needs a value"),
        (["--prefix", "/"], 1, "absolute path"),
        (["--prefix", "/opt/../etc/x"], 1, "absolute path"),
        (["--user", "a b"], 1, "not a name"),
        (["--source", "/no/such.whl"], 1, "no such wheel"),
    ],
)
def test_wrong_options_are_refused(device, options, code, words):
    done = device("--dry-run", *options)
    assert done.returncode == code
    assert words in done.stderr


def test_a_wheel_is_not_built(device, tmp_path):
    wheel = tmp_path / "adapmoe-0.1.0-cp312-cp312-linux_aarch64.whl"
    wheel.touch()
    done = device("--dry-run", "--source", wheel, "--extras", "export")
    assert f"pip install --upgrade {wheel}[export]\n" in done.stdout
