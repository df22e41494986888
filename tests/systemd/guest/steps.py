# SPDX-License-Identifier: Apache-2.0
"""The steps of the check, in order. Each returns what it saw, in words, or raises."""

import os
import re
import subprocess
import threading
import time
from pathlib import Path

import client
import faults
import unit

CHECK = Path(__file__).parent
CONTROL = Path("/var/cache/adapmoe/faults")
KEYS = Path("/etc/adapmoe/keys")
WATCHDOG_S = 40 if unit.EMULATED else 8
MIB = 1 << 20
# Long enough that its one step needs every expert.
LONG_PROMPT = "import os\n\ndef read(path):\n    return os.path.join(path, name)\n" * 3


def install(facts):
    """As a user does; the unit is started by it."""
    said = unit.run(CHECK / "jetson/install.sh", client.PACK)
    assert unit.state() == "active", said
    (serves,) = [line for line in said.splitlines() if " serves at " in line]
    assert unit.systemctl("is-enabled", unit.NAME) == "enabled"
    version = unit.systemctl("--version").splitlines()[0]
    facts["plan"] = (unit.DROP_INS / "plan.conf").read_text()
    return f"{serves}; {version}, Linux {os.uname().release}"


def start_waits_for_the_model(facts):
    """`systemctl start` returns when the model answers, and not before."""
    unit.systemctl("stop", unit.NAME)
    begin = time.monotonic()
    states, statuses = set(), set()
    with subprocess.Popen(["systemctl", "start", unit.NAME]) as start:
        while start.poll() is None:
            states.add(unit.state())
            statuses.add(unit.show("StatusText"))
            answers = client.status("/ready") == 200
            if start.poll() is None:
                assert not answers or unit.state() == "active", "it answers, and is not ready"
        assert start.returncode == 0
    facts["start_s"] = time.monotonic() - begin
    assert "activating" in states, states
    text = client.complete()
    assert unit.state() == "active"
    said = unit.show("StatusText")
    assert "127.0.0.1" in said, said
    before = ", ".join(sorted(filter(None, statuses - {said})))
    return f"after {facts['start_s']:.1f} s; before: {before}; then {said!r}, answers {text!r}"


def request(facts):
    """Two answers to one prompt are the same."""
    begin = time.monotonic()
    facts["text"] = client.complete()
    assert client.complete() == facts["text"]
    facts["token_s"] = (time.monotonic() - begin) / client.TOKENS / 2
    assert facts["text"].strip()
    return f"{facts['text']!r}, {1 / facts['token_s']:.1f} tokens/s"


def hardening(facts):
    """What the unit promises of its process."""
    folder = Path(f"/proc/{unit.pid()}")
    status = dict(
        line.split(":\t", 1)
        for line in (folder / "status").read_text().splitlines()
        if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == 0
    user = folder.owner()
    assert user == "adapmoe"
    links = [str(link.readlink()) for link in (folder / "fd").iterdir()]
    ring = "anon_inode:[io_uring]" in links
    assert ring, "io_uring is not used"
    score = (folder / "oom_score_adj").read_text().strip()
    return f"user {user}, no capabilities, system calls filtered, io_uring used, OOM score {score}"


def memory_limit(facts):
    """MemoryMax of plan.conf is the control group's, and four answers at a time stay below it."""
    limit = int(re.search(r"MemoryMax=(\d+)", facts["plan"])[1])
    assert unit.show("MemoryMax") == str(limit)
    unit.need_controller("memory")
    assert int(unit.group("memory.max")[0]) == limit
    peak = unit.memory_now()
    texts = []

    def ask():
        texts.append(client.complete(tokens=2 * client.TOKENS))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for each in clients:
        each.start()
    while any(each.is_alive() for each in clients):
        peak = max(peak, unit.memory_now())
        time.sleep(0.05)
    assert len(texts) == 4
    assert len(set(texts)) == 1
    assert texts[0].startswith(facts["text"])
    assert peak < limit
    assert unit.oom_kills() == 0
    return f"memory.max {limit / MIB:.0f} MiB, at most {peak / MIB:.0f} MiB used, nothing killed"


def good_neighbour(facts):
    """A limit that closes in: memory is given back, and taken again once there is room."""
    unit.need_controller("memory")
    process, limit = unit.pid(), unit.group("memory.max")[0]
    before = unit.memory_now()
    unit.systemctl("set-property", "--runtime", unit.NAME, f"MemoryMax={before + 48 * MIB}")
    begin = time.monotonic()
    given = unit.wait(
        "memory given back", lambda: client.metric("adapmoe_memory_given_back_bytes"), 20
    )
    unit.wait("a smaller process", lambda: unit.memory_now() < before - 16 * MIB, 20)
    seconds = time.monotonic() - begin
    after = unit.memory_now()
    assert client.complete() == facts["text"]
    unit.systemctl("set-property", "--runtime", unit.NAME, f"MemoryMax={limit}")
    unit.wait(
        "memory taken again",
        lambda: client.metric("adapmoe_memory_given_back_bytes") < given / 2,
        60,
    )
    assert client.complete() == facts["text"]
    assert unit.pid() == process
    assert unit.oom_kills() == 0
    return (
        f"limit lowered to {before / MIB + 48:.0f} MiB: {given / MIB:.0f} MiB of the ceiling given "
        f"back, {before / MIB:.0f} -> {after / MIB:.0f} MiB in {seconds:.1f} s; taken again; "
        "the same answers"
    )


def with_short_watchdog(facts):
    """From here on with a drop-in: little memory, faults of the disk, and keys."""
    faults.make_control(CONTROL)
    CONTROL.chmod(0o666)
    unit.write_drop_in(
        "zz-check.conf",
        "[Service]\n"
        f"WatchdogSec={WATCHDOG_S}s\n"
        "RestartSec=1s\n"
        "Environment=ADAPMOE_MEMORY= ADAPMOE_EXPERTS_RESIDENT=25%\n"
        "Environment=ADAPMOE_READER=pread\n"
        f"Environment=LD_PRELOAD={CHECK}/fault_shim.so FAULT_CONTROL={CONTROL}\n",
    )
    unit.systemctl("restart", unit.NAME)
    assert client.complete() == facts["text"]
    facts["pid"] = unit.pid()
    return f"WatchdogSec={WATCHDOG_S}s, room for a quarter of the experts, the same answer"


def idle(facts):
    """The watchdog is fed without any request."""
    time.sleep(2 * WATCHDOG_S)
    assert (unit.pid(), unit.show("NRestarts")) == (facts["pid"], "0")
    return f"{2 * WATCHDOG_S} s without a request: not restarted"


def slow_disk(facts):
    """A step that takes longer than the watchdog waits is not ended while reads end."""
    shim = faults.Shim(CONTROL)
    if unit.has_controller("io"):
        rate = 40_000_000 // WATCHDOG_S
        how = f"at {rate / 1e6:.1f} MB/s, a limit of the control group,"
        limit = f"IOReadBandwidthMax={client.PACK} {rate}"
        unit.systemctl("set-property", "--runtime", unit.NAME, limit)
    else:
        delay_s = 0.2 * WATCHDOG_S
        how = f"with {delay_s:.1f} s more per read"
        shim.set(faults.DELAY, delay_ms=round(1000 * delay_s))
    begin = time.monotonic()
    client.complete(LONG_PROMPT, tokens=1)
    seconds = time.monotonic() - begin
    shim.clear()
    if unit.has_controller("io"):
        unit.systemctl("set-property", "--runtime", unit.NAME, "IOReadBandwidthMax=")
    assert seconds > 2 * WATCHDOG_S, f"only {seconds:.1f} s: the disk was not slow"
    assert (unit.pid(), unit.show("NRestarts")) == (facts["pid"], "0")
    assert client.complete() == facts["text"]
    return f"one step {how} took {seconds:.1f} s: not restarted"


def hang(facts):
    """A read that never ends: systemd restarts the service, which answers again."""
    since, begin = time.time(), time.monotonic()
    shim = faults.Shim(CONTROL)
    shim.set(faults.DELAY, count=1, delay_ms=3_600_000)
    victim = client.Stream(client.TOKENS, prompt=LONG_PROMPT)
    unit.wait("a read that hangs", lambda: shim.spoiled, 30)
    unit.wait("a restart", lambda: unit.show("NRestarts") == "1", 90)
    unit.wait("an active service", lambda: unit.state() == "active", 120)
    seconds = time.monotonic() - begin
    assert client.complete() == facts["text"]
    process = unit.pid()
    assert process != facts["pid"]
    said = [line for line in unit.journal(since).splitlines() if "atchdog" in line]
    assert said, unit.journal(since)
    victim.join(10)
    assert victim.finished is None
    return (
        f"{said[0]}; process {facts['pid']} -> {process}, active after {seconds:.0f} s, "
        "the same answer"
    )


def reload(facts):
    """SIGHUP reads keys again; the process stays."""
    write_keys("first:0123456789abcdef")
    unit.write_drop_in("zz-keys.conf", f"[Service]\nEnvironment=ADAPMOE_KEYS={KEYS}\n")
    unit.systemctl("restart", unit.NAME)
    process = unit.pid()
    assert client.status("/v1/models") == 401
    assert client.status("/v1/models", "0123456789abcdef") == 200
    write_keys("second:fedcba9876543210")
    unit.systemctl("reload", unit.NAME)
    unit.wait("the new key", lambda: client.status("/v1/models", "fedcba9876543210") == 200, 10)
    assert client.status("/v1/models", "0123456789abcdef") == 401
    assert unit.pid() == process
    unit.remove_drop_in("zz-keys.conf")
    KEYS.unlink()
    return "a new key holds, the old one no more, the same process"


def write_keys(line):
    KEYS.write_text(line + "\n")
    KEYS.chmod(0o600)
    unit.run("chown", "adapmoe:adapmoe", KEYS)


def drain(facts):
    """`systemctl stop` lets an answer end. Without the drop-in, as it will start again."""
    unit.remove_drop_in("zz-check.conf")
    if unit.EMULATED:  # may write a token in seconds
        unit.write_drop_in(
            "zz-slow.conf", "[Service]\nTimeoutStopSec=330s\nEnvironment=ADAPMOE_DRAIN=300\n"
        )
    unit.systemctl("restart", unit.NAME)
    tokens = max(12, min(200, round(8 / facts["token_s"])))
    expected = client.complete(tokens=tokens)
    stream = client.Stream(tokens)
    unit.wait("the first words", lambda: len(stream.chunks) > 2, 60)
    begin, seen = time.monotonic(), len(stream.chunks)
    unit.systemctl("stop", unit.NAME)
    stopped = time.monotonic()
    stream.join(10)
    assert seen < tokens / 2, "the answer was too short to be seen ending"
    assert stream.error is None, stream.error
    assert (stream.text, stream.finished) == (expected, "length")
    assert unit.state() == "inactive"
    assert (unit.show("Result"), unit.show("ExecMainStatus")) == ("success", "0")
    assert client.status("/health") == 0
    return (
        f"stopped at piece {seen} of an answer of {tokens} tokens, which came whole; exit code 0, "
        f"inactive after {stopped - begin:.1f} s"
    )


def started_at_boot(facts):
    """After a restart of the machine the unit is there by itself."""
    unit.wait("an active service", lambda: unit.state() == "active", 120)
    assert client.complete() == facts["text"]
    active = int(unit.show("ActiveEnterTimestampMonotonic"))
    booted = int(unit.systemctl("show", "--value", "-p", "UserspaceTimestampMonotonic"))
    return f"active {(active - booted) / 1e6:.1f} s after systemd began, the same answer"
