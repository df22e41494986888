#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Names, in one line, what the system lacks to build this project. Usage: check_system.sh [PYTHON]
set -euo pipefail
python="${1:-python3}"
cxx="${CXX:-g++}"
missing=()
packages=()
lacks() { missing+=("$1"); packages+=("$2"); }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
  lacks "Python 3.10 or later (PYTHON=$python)" python3
else
  "$python" -c 'import ensurepip, venv' 2>/dev/null || lacks "Python's venv and ensurepip" python3-venv
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    lacks "Python's headers" python3-dev
fi
version="$("$cxx" -dumpversion 2>/dev/null || true)"
if [[ "${version%%.*}" -lt 11 ]] 2>/dev/null; then
  lacks "a C++20 compiler, GCC 11 or later (CXX=$cxx)" g++
fi

if ((${#missing[@]})); then
  list="$(printf '%s, ' "${missing[@]}")"
  echo "Missing: ${list%, }. On Debian or Ubuntu: apt-get install ${packages[*]}" >&2
  exit 1
fi
