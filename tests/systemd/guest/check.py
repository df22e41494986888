# SPDX-License-Identifier: Apache-2.0
"""Runs inside the machine: installs the service as a user does, and checks it step by step.

Prints a line per step, `ok SECONDS NAME: facts` or `not tried NAME: why`, and `all checked` at the
end. The machine restarts once in between, and is powered off at the end, whatever happens.
"""

import json
import time
import traceback
from pathlib import Path

import client
import steps
import unit

STATE = Path("/opt/boot-check/state.json")
FIRST = (
    steps.install,
    steps.start_waits_for_the_model,
    steps.request,
    steps.hardening,
    steps.memory_limit,
    steps.good_neighbour,
    steps.with_short_watchdog,
    steps.idle,
    steps.slow_disk,
    steps.hang,
    steps.reload,
    steps.drain,
)
AFTER_RESTART = (steps.started_at_boot,)


def run_steps(chosen, facts):
    for step in chosen:
        begin = time.monotonic()
        name = step.__name__.replace("_", " ")
        try:
            said = step(facts)
            print(f"ok {time.monotonic() - begin:5.1f} s  {name}: {said}")
        except unit.NotHere as reason:
            print(f"not tried  {name}: {reason}")


def main():
    if STATE.exists():
        run_steps(AFTER_RESTART, json.loads(STATE.read_text()))
        print("all checked")
        return "poweroff"
    facts = {}
    run_steps(FIRST, facts)
    STATE.write_text(json.dumps(facts))
    print("the machine restarts")
    return "reboot"


if __name__ == "__main__":
    then = "poweroff"
    try:
        then = main()
    except BaseException:
        traceback.print_exc()
        print(unit.run("systemctl", "status", "--no-pager", "-n", "0", unit.NAME, check=False))
        print(unit.run("journalctl", "-b", "-n", "80", "--no-pager", "-o", "short-monotonic"))
        print(client.status("/health"), "is the status of /health")
    finally:
        unit.systemctl("--no-block", then)
