# SPDX-License-Identifier: Apache-2.0
"""jetson/install.sh PACK, on a folder instead of a device, with stand-ins for what needs root."""

import json
import sys
from pathlib import Path

import pytest

from adapmoe.planning.service_memory import SERVER_BYTES
from support.machine.bare_device import SETTINGS, Device

UNITS = "etc/systemd/system"
PLAN = f"{UNITS}/adapmoe.service.d/plan.conf"
CONFIG = "etc/adapmoe/adapmoe.toml"


@pytest.fixture
def device(tmp_path):
    found = Device(tmp_path)
    (found.root / "run/systemd/system").mkdir(parents=True)
    return found


@pytest.fixture
def packaged(device):
    """The same with the Debian package, where nothing but the service is made."""
    (device.state / "package").write_text("installed")
    (device.root / "usr/bin").mkdir(parents=True)
    (device.root / "usr/bin/adapmoe").symlink_to(device.tools / "adapmoe")
    (device.root / "etc/adapmoe").mkdir(parents=True)
    (device.root / CONFIG).write_text("# of the package\n")
    return device


@pytest.fixture
def pack(tmp_path):
    found = tmp_path / "mixtral.adapmoe"
    found.mkdir()
    (found / "manifest.json").write_text("{}")
    return found


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def systemctl(done):
    return [call for call in done.calls if call.startswith("systemctl") and "--version" not in call]


def test_a_pack_becomes_a_service(device, pack):
    done = device(pack)
    assert done.returncode == 0, done.stderr
    plan = (device.root / PLAN).read_text()
    assert f"\nEnvironment=ADAPMOE_PACK={pack}\n" in plan
    assert "\nEnvironment=ADAPMOE_MEMORY=4000000000\n" in plan
    assert "\nMemoryMax=4805306368\n" in plan
    assert "\nTimeoutStopSec=60s\n" in plan
    unit = (device.root / UNITS / "adapmoe.service").read_text()
    assert "\nExecStart=/opt/adapmoe/venv/bin/adapmoe serve --config /etc/adapmoe/" in unit
    assert "\nUser=adapmoe\n" in unit
    assert any("pip install --upgrade" in call and "[serve]" in call for call in done.calls)
    asked = next(call for call in done.calls if call.startswith("adapmoe plan"))
    assert asked.endswith("--json --memory auto --max-context 0 --max-sequences 4")
    assert systemctl(done)[-3:] == [
        "systemctl daemon-reload",
        "systemctl enable adapmoe.service",
        "systemctl restart adapmoe.service",
    ]
    assert "adapmoe.service serves at 127.0.0.1:8000" in done.stdout


@pytest.mark.slow
def test_what_adapmoe_really_prints_is_understood(device, pack_factory):
    adapmoe = Path(sys.executable).parent / "adapmoe"
    kept = device.state / "plan.json"
    (device.tools / "adapmoe").write_text(
        f'#!/bin/sh\n[ "$1" = doctor ] || {adapmoe} "$@" | tee {kept}.$1\n'
    )
    pack = pack_factory()
    done = device(pack, "--memory", "100MiB")
    assert done.returncode == 0, done.stderr
    planned = json.loads(kept.with_name("plan.json.plan").read_text())
    recommended = planned["recommended"]["memory"]
    assert 0 < recommended < 100 << 20  # everything fits into less
    assert f"""[Service]
Environment=ADAPMOE_PACK={pack}
Environment=ADAPMOE_MEMORY={recommended}
MemoryMax={recommended + SERVER_BYTES}
TimeoutStopSec=60s
""" in (device.root / PLAN).read_text()
    assert list((device.root / "var/cache/adapmoe").glob("*.disk.json"))  # measured for the service
    assert "adapmoe.service serves at 127.0.0.1:8000" in done.stdout


def test_again_it_is_planned_anew_with_the_service_at_rest(packaged, pack):
    device = packaged
    assert device(pack).returncode == 0
    before = files_in(device.root)
    (device.state / "plan").write_text(
        '{"recommended": {"memory": 5000, "policy": "lru"}, "memory_max_bytes": 6000}'
    )
    so_far = len(device.calls.read_text().splitlines())
    again = device(pack, "--memory", "5000")
    assert again.returncode == 0, again.stderr
    assert files_in(device.root) == before
    assert "MemoryMax=6000\n" in (device.root / PLAN).read_text()
    calls = again.calls[so_far:]
    stopped = calls.index("systemctl stop adapmoe.service")
    planned = next(at for at, call in enumerate(calls) if call.startswith("adapmoe plan"))
    assert stopped < planned < calls.index("systemctl restart adapmoe.service")
    assert "--memory 5000" in calls[planned]


def test_a_plan_that_fails_leaves_the_service_as_it_was(packaged, pack):
    device = packaged
    assert device(pack).returncode == 0
    plan = (device.root / PLAN).read_text()
    adapmoe = device.tools / "adapmoe"
    adapmoe.write_text('#!/bin/sh\n[ "$1" = plan ] && exit 1\n' + adapmoe.read_text())
    done = device(pack)
    assert done.returncode == 1
    assert "cannot be served" in done.stderr
    assert systemctl(done)[-1] == "systemctl start adapmoe.service"
    assert (device.root / PLAN).read_text() == plan


def test_uninstall_removes_the_service_and_leaves_what_was_edited(device, pack):
    assert device(pack).returncode == 0
    (device.root / CONFIG).write_text("port = 9000\n")
    again = device(pack)
    assert f"stays as it is: /{CONFIG}" in again.stdout
    assert (device.root / CONFIG).read_text() == "port = 9000\n"
    done = device("--uninstall")
    assert done.returncode == 0, done.stderr
    assert f"stays, because it was edited: /{CONFIG}" in done.stdout
    assert files_in(device.root) == {CONFIG}
    assert not (device.root / UNITS / "adapmoe.service.d").exists()
    assert not (device.root / "var/cache/adapmoe").exists()
    assert systemctl(done)[-3:] == [
        f"systemctl --root={device.root} disable adapmoe.service",
        "systemctl stop adapmoe.service",
        "systemctl daemon-reload",
    ]


def test_an_unedited_configuration_is_renewed_and_removed(device, pack):
    assert device(pack).returncode == 0
    record = device.root / "opt/adapmoe/installed.txt"
    assert record.read_text().count("\nconfig ") == 1
    again = device(pack)
    assert again.returncode == 0
    assert "there already: /etc/systemd/system/adapmoe.service\n" in again.stdout
    assert record.read_text().count("\nconfig ") == 1
    assert device("--uninstall").returncode == 0
    assert files_in(device.root) == set()


def test_several_packs_have_a_name_a_port_and_a_plan_each(device, pack):
    for name in ("small", "large"):
        done = device(pack, "--name", name)
        assert done.returncode == 0, done.stderr
        assert f"systemctl restart adapmoe@{name}.service" in done.calls
        assert (device.root / UNITS / f"adapmoe@{name}.service.d/plan.conf").exists()
    ports = [
        line
        for name in ("small", "large")
        for line in (device.root / f"etc/adapmoe/{name}.toml").read_text().splitlines()
        if line.startswith("port")
    ]
    assert ports == ["port = 8001", "port = 8002"]
    assert device(pack, "--name", "small").returncode == 0
    assert "\nport = 8001\n" in (device.root / "etc/adapmoe/small.toml").read_text()
    assert device("--uninstall").returncode == 0
    assert files_in(device.root) == set()


def test_with_the_debian_package_only_the_plan_is_made(packaged, pack):
    device = packaged
    before = files_in(device.root)
    refused = device()
    assert refused.returncode == 1
    assert "give a PACK" in refused.stderr
    done = device(pack)
    assert done.returncode == 0, done.stderr
    assert files_in(device.root) == before | {PLAN, "etc/adapmoe/installed.txt"}
    assert not any(call.startswith(("useradd", "python3")) for call in done.calls)
    assert device(pack).returncode == 0
    assert device("--uninstall").returncode == 0
    assert files_in(device.root) == before


def test_a_dry_run_says_it_and_does_nothing(device, pack):
    done = device("--dry-run", pack)
    assert done.returncode == 0, done.stderr
    for words in (
        f"would check: adapmoe can read {pack}",
        f"would write: /{CONFIG}",
        f"would write: /{UNITS}/adapmoe@.service",
        "plan",
        f"would write: /{PLAN}",
        "would run: systemctl restart adapmoe.service",
    ):
        assert words in done.stdout, words
    assert files_in(device.root) == set()
    assert not any(call.startswith(("chown", "chgrp", "runuser")) for call in done.calls)


def test_where_systemd_does_not_run_the_service_is_only_enabled(packaged, pack):
    device = packaged
    (device.root / "run/systemd/system").rmdir()
    done = device(pack)
    assert done.returncode == 0, done.stderr
    assert systemctl(done) == [f"systemctl --root={device.root} enable adapmoe.service"]
    assert "starts at the next boot" in done.stdout


def test_a_service_that_does_not_start_is_said_to(packaged, pack):
    device = packaged
    (device.state / "no_start").touch()
    done = device(pack)
    assert done.returncode == 1
    assert "journalctl -u adapmoe.service says why" in done.stderr
    assert device("--uninstall").returncode == 0


@pytest.mark.parametrize(("version", "there"), [("253", False), ("254", True)])
def test_longer_pauses_are_for_a_systemd_that_knows_them(device, pack, version, there):
    (device.state / "systemd").write_text(version)
    assert device(pack).returncode == 0
    for unit in ("adapmoe.service.d", "adapmoe@.service.d"):
        assert (device.root / UNITS / unit / "backoff.conf").exists() == there
    assert device("--uninstall").returncode == 0
    assert files_in(device.root) == set()


def test_a_longer_drain_is_waited_for(packaged, pack):
    device = packaged
    (device.state / "settings").write_text(SETTINGS.replace("30.0", "120.5"))
    assert device(pack).returncode == 0
    assert "\nTimeoutStopSec=150s\n" in (device.root / PLAN).read_text()


def test_a_pack_that_the_user_cannot_read_is_refused_with_what_to_do(packaged, pack):
    device = packaged
    (device.state / "unreadable").write_text(f"{pack}/experts.safetensors\nanother\n")
    done = device(pack)
    assert done.returncode == 1
    assert f"adapmoe cannot read {pack}/experts.safetensors\n" in done.stderr
    assert f"sudo chgrp -R adapmoe {pack}" in done.stderr
    assert not (device.root / PLAN).exists()


def test_units_of_others_are_left_alone(device, pack):
    other = device.root / UNITS / "adapmoe.service"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    done = device(pack)
    assert done.returncode == 1
    assert "was not made by this script" in done.stderr
    assert device("--uninstall").returncode == 0
    assert other.read_text() == "mine"


def test_a_share_of_experts_is_refused(packaged, pack):
    device = packaged
    (device.state / "settings").write_text('experts_resident = "50%"\n' + SETTINGS)
    done = device(pack)
    assert done.returncode == 1
    assert "set memory" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name", "x"], "need a PACK"),
        (["--memory", "3GiB"], "need a PACK"),
        (["{pack}", "{pack}"], "one pack at a time"),
        (["{pack}", "--name", "a b"], "expected letters"),
        (["{pack}", "--name", "adapmoe"], "another name"),
        (["{root}"], "not a pack"),
    ],
)
def test_wrong_words_are_refused(device, pack, words, said):
    done = device(*(word.format(pack=pack, root=device.root) for word in words))
    assert done.returncode == 1
    assert said in done.stderr
    assert not (device.root / PLAN).exists()


def test_a_path_that_a_unit_would_read_otherwise_is_refused(packaged, pack):
    device = packaged
    odd = pack.rename(pack.with_name("two words%n.adapmoe"))
    done = device(odd)
    assert done.returncode == 1
    assert "rename it" in done.stderr
    assert not (device.root / PLAN).exists()
