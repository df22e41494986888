# SPDX-License-Identifier: Apache-2.0
"""jetson/install.sh, with a folder in the place of a device and stand-ins for what needs root."""

import pytest

from support.machine.bare_device import Device
from support.machine.machines import build


@pytest.fixture
def device(tmp_path):
    return Device(tmp_path)


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


@pytest.mark.parametrize("jetson", ["etc/nv_tegra_release", "proc/device-tree/compatible"])
def test_install_again_and_uninstall(device, jetson):
    build(device.root, {jetson: "nvidia,p3701-0000\0nvidia,tegra234\0"})
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
    for once in ("useradd", "groupadd", "usermod", "venv --clear"):
        assert once not in again.stdout
    assert "\nAdapMoE: no GPU kernels\n" in again.stdout  # what the build left out
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
    (device.state / "passwd").write_text("adapmoe\n")
    done = device()
    assert done.returncode == 0, done.stderr
    assert "is something else and stays" in done.stdout
    assert device("--uninstall").returncode == 0
    assert other.read_text() == "mine"
    assert (device.root / "var/lib/adapmoe").exists()
    assert (device.state / "passwd").read_text() == "adapmoe\n"
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
    # The same version again: pip alone would take it for installed.
    assert f"pip install --force-reinstall --no-deps {wheel}\n" in done.stdout


def members(device):
    return (device.state / "members").read_text().split()


def test_who_calls_sudo_may_write_packs(device):
    folder = device.root / "var/lib/adapmoe"
    assert device(sudo_user="me").returncode == 0
    assert folder.stat().st_mode & 0o7777 == 0o2775
    assert members(device) == ["adapmoe:adapmoe", "adapmoe:video", "adapmoe:render", "me:adapmoe"]
    again = device(sudo_user="root")
    assert f"chown adapmoe:adapmoe {folder}" in again.calls
    assert device("--uninstall").returncode == 0
    assert members(device) == []
    assert (device.state / "group").read_text() == "video\nrender\n"


def test_who_cannot_join_is_told_so(device):
    (device.tools / "usermod").write_text('#!/bin/sh\n[ "$3" = adapmoe ]\n')
    done = device(sudo_user="me")
    assert done.returncode == 0, done.stderr
    assert "note: me cannot join the group adapmoe" in done.stdout
    assert "me:adapmoe" not in (device.root / "opt/adapmoe/installed.txt").read_text()


def test_only_what_was_joined_is_left_again(device):
    (device.state / "passwd").write_text("orin\n")
    (device.state / "group").write_text("video\nrender\norin\n")
    before = ["orin:orin", "orin:video", "me:orin"]
    (device.state / "members").write_text("\n".join(before) + "\n")
    assert device("--user", "orin", sudo_user="me").returncode == 0
    assert members(device) == [*before, "orin:render"]
    assert device("--user", "orin", "--uninstall").returncode == 0
    assert members(device) == before
    assert (device.state / "passwd").read_text() == "orin\n"
    assert "orin" in (device.state / "group").read_text()


def test_an_interrupted_environment_is_known_and_made_again(device):
    venv = device.root / "opt/adapmoe/venv"
    (device.state / "broken").touch()
    assert device().returncode == 1
    assert (venv / "bin/python").exists()
    (device.state / "broken").unlink()
    again = device()
    assert again.returncode == 0, again.stderr
    assert "venv --clear" in again.stdout
    assert "venv --clear" not in device().stdout
    (device.state / "broken").touch()
    (venv / "bin/broken").touch()
    assert device().returncode == 1
    assert device("--uninstall").returncode == 0
    assert not (device.root / "opt/adapmoe").exists()


def test_missing_headers_of_python_are_named_before_anything_is_made(device):
    stub = device.tools / "python3"
    stub.write_text(
        stub.read_text().replace(
            "#!/bin/sh\n", '#!/bin/sh\ncase "$*" in *Python.h*) exit 1 ;; esac\n'
        )
    )
    done = device()
    assert done.returncode == 1
    assert "apt install python3-dev" in done.stderr
    assert everything_in(device.root) == []


def test_a_build_that_fails_says_why(device):
    (device.state / "no_build").touch()
    done = device()
    assert done.returncode == 1
    assert "-- AdapMoE: no GPU kernels" in done.stderr
    assert "could not be built; all of it is in /opt/adapmoe/build.log" in done.stderr
    assert device("--uninstall").returncode == 0
    assert not (device.root / "opt/adapmoe").exists()
