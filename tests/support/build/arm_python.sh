#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the folder of the headers of a Python for 64-bit Arm, of the same version as PYTHON, or says
# in one line why there are none. Usage: arm_python.sh PYTHON FOLDER (see fetch_arm_python.sh)
set -euo pipefail
version="$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
if [[ -e "$2/include/python$version/pyconfig.h" ]]; then
  echo "$(realpath "$2")/include/python$version"
elif [[ -e "/usr/include/aarch64-linux-gnu/python$version/pyconfig.h" ]]; then
  echo "/usr/include/python$version" # libpython3-dev:arm64; the compiler looks beside it by itself
else
  echo "no headers of Python $version for arm64: tests/support/build/fetch_arm_python.sh $1 $2" >&2
  exit 1
fi
