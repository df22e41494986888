# SPDX-License-Identifier: Apache-2.0
"""jetson/systemd: systemd finds nothing wrong with the units, and they agree with the server."""

import re
import shutil
import subprocess

import pytest

from adapmoe.serve.config import KEYS, ConfigError, read_config
from support.source.source_tree import ROOT

SYSTEMD = ROOT / "jetson" / "systemd"
UNITS = ("adapmoe.service", "adapmoe@.service")
ANALYZE = shutil.which("systemd-analyze")
MOST_EXPOSED = 2.5  # of 10; "OK" is below 5
NEWEST_KEYS = ("RestartSteps", "RestartMaxDelaySec")  # of systemd 254

needs_systemd = pytest.mark.skipif(
    ANALYZE is None, reason="no systemd-analyze: apt install systemd"
)


def analyze(*words):
    return subprocess.run(
        [ANALYZE, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )


def words_of(done):
    """What systemd said, but for its complaints about links to units of its own."""
    return [
        line
        for line in done.stderr.splitlines()
        if not line.startswith("Suspicious symlink") and 'points to "null"' not in line
    ]


def systemd_version():
    return int(re.match(r"systemd (\d+)", analyze("--version").stdout)[1])


@pytest.fixture
def installed(tmp_path):
    """The units as they are installed, with a program that exists and a drop-in of a plan."""
    program = tmp_path / "adapmoe"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in UNITS:
        text = (SYSTEMD / name).read_text().replace("/usr/bin/adapmoe", str(program))
        (tmp_path / name).write_text(text)
        drop_in = tmp_path / f"{name}.d" / "plan.conf"
        drop_in.parent.mkdir()
        drop_in.write_text(
            "[Service]\nEnvironment=ADAPMOE_PACK=/p\nMemoryMax=5000000000\nTimeoutStopSec=60s\n"
        )
    (tmp_path / "adapmoe@.service").rename(tmp_path / "adapmoe@one.service")
    (tmp_path / "adapmoe@.service.d").rename(tmp_path / "adapmoe@one.service.d")
    return tmp_path


@needs_systemd
@pytest.mark.parametrize("name", ["adapmoe.service", "adapmoe@one.service"])
def test_systemd_says_no_word_about_a_unit(installed, name):
    done = analyze("verify", "--man=no", "--recursive-errors=no", installed / name)
    assert (done.returncode, done.stdout, words_of(done)) == (0, "", [])


@needs_systemd
def test_systemd_has_words_about_a_wrong_unit(installed):
    unit = installed / "adapmoe.service"
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nNoSuchKey=1"))
    done = analyze("verify", "--man=no", "--recursive-errors=no", unit)
    assert any("NoSuchKey" in line for line in words_of(done))


@needs_systemd
@pytest.mark.parametrize("name", ["adapmoe.service", "adapmoe@one.service"])
def test_a_unit_exposes_little(installed, name, capsys):
    if systemd_version() < 250:
        pytest.skip("systemd-analyze security --offline: systemd 250 or later")
    done = analyze("security", "--offline=true", installed / name)
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+) (\S+)", done.stdout)
    with capsys.disabled():
        print(f"\nsystemd-analyze security {name}: {score[1]} {score[2]}")
    assert float(score[1]) <= MOST_EXPOSED


def test_keys_that_only_new_systemds_know_are_in_a_file_of_their_own():
    for name in UNITS:
        for key in NEWEST_KEYS:
            assert key not in (SYSTEMD / name).read_text()
    assert all(f"\n{key}=" in (SYSTEMD / "backoff.conf").read_text() for key in NEWEST_KEYS)


def test_both_units_differ_only_in_their_name():
    one, several = ((SYSTEMD / name).read_text() for name in UNITS)
    changes = {
        "# Serves one pack. Which one": "# Serves one pack of several, by name. Which one",
        "Description=AdapMoE server": "Description=AdapMoE server %i",
        "/etc/adapmoe/adapmoe.toml": "/etc/adapmoe/%i.toml",
        "SyslogIdentifier=adapmoe": "SyslogIdentifier=adapmoe-%i",
    }
    for old, new in changes.items():
        assert one.count(old) == 1
        one = one.replace(old, new)
    assert one == several


def settings_of(name):
    """{directive: [values]} of a unit."""
    found = {}
    for line in (SYSTEMD / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|min)", text).groups()
    return int(number) * {"s": 1, "min": 60}[unit]


def test_a_drain_ends_before_systemd_kills():
    assert (
        seconds(settings_of("adapmoe.service")["TimeoutStopSec"][0]) >= KEYS["drain"].default + 15
    )


def test_what_breaks_cuda_io_uring_or_the_memory_watch_stays_out():
    found = settings_of("adapmoe.service")
    for key in (
        "PrivateDevices",
        "DevicePolicy",
        "DeviceAllow",
        "ProtectClock",
        "PrivateUsers",
        "MemoryDenyWriteExecute",
        "ProcSubset",
        "MemoryMax",  # of the drop-in
    ):
        assert key not in found, key
    assert found["SystemCallFilter"] == ["@system-service", "~@privileged"]


@needs_systemd
def test_the_filter_of_system_calls_lets_io_uring_through():
    groups = {"@system-service": set(), "@privileged": set()}
    for group in groups:
        waiting = [group]
        while waiting:
            for line in analyze("syscall-filter", waiting.pop()).stdout.splitlines()[1:]:
                name = line.strip()
                if name.startswith("@"):
                    waiting.append(name)
                elif name and not name.startswith("#"):
                    groups[group].add(name)
    allowed = groups["@system-service"] - groups["@privileged"]
    assert {"io_uring_setup", "io_uring_enter", "io_uring_register", "mlock"} <= allowed


# --- adapmoe.toml -------------------------------------------------------------------------------

CONFIG = SYSTEMD / "adapmoe.toml"
SETTING = re.compile(r"^#([a-z_]+) = ", re.MULTILINE)


def test_every_key_of_the_server_is_in_the_configuration_once():
    shown = SETTING.findall(CONFIG.read_text())
    assert sorted(shown) == sorted(KEYS)


def uncommented(*left_out):
    lines = []
    for line in CONFIG.read_text().splitlines():
        key = SETTING.match(line)
        lines.append(line[1:] if key and key[1] not in left_out else line)
    return "\n".join(lines)


def test_the_configuration_shows_what_holds_without_it(tmp_path):
    file = tmp_path / "adapmoe.toml"
    examples = {key for key, each in KEYS.items() if each.default is None}
    file.write_text(uncommented(*examples))
    found = read_config(file, {"ADAPMOE_PACK": "/p"}, {})
    assert set(found.sources) == set(KEYS) - examples | {"pack"}
    for key, each in KEYS.items():
        if key not in examples:
            values = {**vars(found.serve), **vars(found.settings)}
            value = values[key] or each.default if each.default == () else values[key]
            assert value == each.default, key


def test_its_examples_are_valid(tmp_path):
    file = tmp_path / "adapmoe.toml"
    for rivals in ("memory", "experts_resident"):
        file.write_text(uncommented(rivals))
        assert str(read_config(file, {}, {}).pack).startswith("/var/lib/adapmoe/")
    file.write_text(uncommented() + "\nno_such_key = 1\n")
    with pytest.raises(ConfigError, match="no_such_key"):
        read_config(file, {}, {})


def test_as_it_is_it_changes_nothing():
    assert set(read_config(CONFIG, {"ADAPMOE_PACK": "/p"}, {}).sources) == {"pack"}
