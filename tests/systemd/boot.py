# SPDX-License-Identifier: Apache-2.0
"""Boots a machine with the Debian package, and checks its service under a real systemd.

Usage: boot.py [--emulated] PACKAGE PACK [FOLDER]
PACKAGE is a .deb for Python 3.10 on amd64, PACK one of about 100 MB. A container, or with
--emulated a machine with a kernel and control groups of its own, which takes ten minutes. Logs, and
what can be used again, are in FOLDER (build/boot). Says `boot: skipped, REASON` where it cannot
run. The last line counts what was checked: guest/check.py has it all.
"""

import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import container
import emulated
import machine

sys.path.insert(0, str(machine.ROOT / "tests"))
from support.disk.faults import build_shim

RESTART = 133  # systemd-nspawn's exit code when the container wants to start again
LIMIT_S = {container: 480, emulated: 3600}


def boot(words, limit_s, report):
    """Runs the machine until it powers off; the lines of its report, printed as they come."""
    lines = []
    code = RESTART
    end = time.monotonic() + limit_s
    while code == RESTART:
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            limit = threading.Timer(max(end - time.monotonic(), 0), process.terminate)
            limit.start()
            try:
                for line in process.stdout:
                    line = line.rstrip("\r\n")
                    lines.append(line)
                    print(line, flush=True)
                    report.write(line + "\n")
                code = process.wait()
            finally:
                limit.cancel()
                end_process(process)
    return lines


def end_process(process):
    """Shuts the machine down if it runs still."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()


def main(words):
    """1 if something failed."""
    kind = emulated if "--emulated" in words else container
    package, pack, *rest = [Path(word) for word in words if word != "--emulated"]
    folder = rest[0].resolve() if rest else machine.ROOT / "build/boot"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "make.log"
    log.unlink(missing_ok=True)
    begin = time.monotonic()
    try:
        machine.check_host(folder, kind.PROGRAMS)
        machine.download(folder, log)
        kind.prepare(folder, package, pack, build_shim(folder), log)
    except machine.CannotRun as reason:
        print(f"boot: skipped, {reason}")
        return 0
    except subprocess.CalledProcessError as error:
        print(log.read_text(errors="replace")[-3000:], f"boot: {error}", sep="\n")
        return 1
    print(f"made in {time.monotonic() - begin:.0f} s", flush=True)
    name = kind.__name__
    try:
        with (folder / f"{name}.log").open("w") as report:
            lines = boot(kind.words(folder, pack), LIMIT_S[kind], report)
    finally:
        kind.clean_up()
    passed = sum(line.startswith("ok ") for line in lines)
    skipped = sum(line.startswith("not tried ") for line in lines)
    done = "all checked" in lines
    if done:
        shutil.rmtree(folder / "root", ignore_errors=True)
    else:
        print(f"boot: not all was checked; {folder}/{name}.log has what there is")
    seconds = time.monotonic() - begin
    print(f"{passed} passed, {0 if done else 1} failed, {skipped} skipped in {seconds:.1f}s")
    return 0 if done else 1


def stop(*_):
    """As Ctrl+C: what runs is ended, and files are closed."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main(sys.argv[1:]))
