# SPDX-License-Identifier: Apache-2.0
"""A device for jetson/install.sh: a folder, and stand-ins for what needs root."""

import os
import subprocess

from support.source.source_tree import ROOT

INSTALL = ROOT / "jetson" / "install.sh"

# What `python -m venv [options] FOLDER` and `pip install --log FILE` leave behind. Where there is a
# file `broken`, venv is interrupted after it made bin/python.
PYTHON = """
[ "$*" = "-m pip --version" ] && [ -e "$(dirname "$0")/broken" ] && exit 1
case "$*" in *"-m venv "*)
  for last; do :; done
  rm -rf "$last" && mkdir -p "$last/bin" && cp {tools}/python3 "$last/bin/python"
  if [ -e {state}/broken ]; then touch "$last/bin/broken"; exit 1; fi
  cp {tools}/adapmoe "$last/bin/adapmoe" ;;
esac
while [ $# -gt 0 ]; do
  if [ "$1" = --log ]; then
    echo "  -- AdapMoE: no GPU kernels" >"$2"
    [ ! -e {state}/no_build ] || exit 1
  fi
  shift
done
"""
# What `adapmoe serve --check-config` says of an unchanged configuration, and `adapmoe plan --json`.
SETTINGS = """
host = "127.0.0.1"
port = 8000
drain = 30.0
memory = "auto"
# experts_resident =
max_context = 0
max_sequences = 4
"""
PLAN = """
{"memory_bytes": 9, "recommended": {"memory": 4000000000, "policy": "lru"},
 "memory_max_bytes": 4805306368, "warnings": []}
"""
FILES = {
    "passwd": "",
    "group": "video\nrender\n",
    "members": "",
    "package": "",
    "systemd": "249",
    "settings": SETTINGS,
    "plan": PLAN.replace("\n", ""),
    "unreadable": "",
}

# Users, groups and members are lines of three files.
SCRIPTS = {
    "useradd": "for last; do :; done; echo $last >>{state}/passwd; echo $last:$3 >>{state}/members",
    "userdel": "sed -i /^$1$/d {state}/passwd; sed -i /^$1:/d {state}/members",
    "groupadd": "echo $2 >>{state}/group",
    "groupdel": "sed -i /^$1$/d {state}/group",
    "usermod": "echo $3:$2 >>{state}/members",
    "gpasswd": "sed -i /^$2:$3$/d {state}/members",
    "id": 'echo $(sed -n "s/^$2://p" {state}/members)',
    "getent": "grep -qx $2 {state}/$1",
    "chown": "",
    "chgrp": "",
    "runuser": """
case "$*" in *" find "*) cat {state}/unreadable; exit ;; esac
shift 3
exec "$@"
""",
    "systemctl": """
case "$1" in
  --version) echo "systemd $(cat {state}/systemd) (stand-in)" ;;
  is-active) [ -e {state}/active ] ;;
  restart) [ ! -e {state}/no_start ] && touch {state}/active ;;
  stop) rm -f {state}/active ;;
esac
""",
    "dpkg-query": "cat {state}/package",
    "adapmoe": "case $1 in serve) cat {state}/settings ;; plan) cat {state}/plan ;; esac",
    "g++": "echo 12",
    "python3": PYTHON,
}


class Device:
    """A root below a folder, and a PATH whose programs are written down in `calls`, not run."""

    def __init__(self, folder):
        self.root, self.tools, self.state = (folder / name for name in ("root", "tools", "state"))
        for made in (self.root, self.tools, self.state):
            made.mkdir()
        for name, text in FILES.items():
            (self.state / name).write_text(text)
        self.calls = self.state / "calls"
        self.calls.touch()
        for name, script in SCRIPTS.items():
            script = script.replace("{state}", str(self.state)).replace("{tools}", str(self.tools))
            log = f'echo "$(basename "$0") $*" >>{self.calls}'
            (self.tools / name).write_text(f"#!/bin/sh\n{log}\n{script}\n")
            (self.tools / name).chmod(0o755)

    def __call__(self, *options, sudo_user=""):
        """Run install.sh; the result also has `calls`, all so far."""
        environment = {
            **os.environ,
            "ADAPMOE_ROOT": str(self.root),
            "PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}",
            "CXX": str(self.tools / "g++"),
            "SUDO_USER": sudo_user,
        }
        words = [str(INSTALL), *map(str, options)]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
        done.calls = self.calls.read_text().splitlines()
        return done
