#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks the archive of `make gpu-bundle` into FOLDER and runs it without a network, with a Python
# that has what the GPU machine's has, up to the first call of CUDA.
# Usage: rehearse.sh PYTHON ARCHIVE FOLDER
set -euo pipefail
python="$(realpath -s "$1")"
archive="$(realpath "$2")"
rm -rf "$3"
mkdir -p "$3"
cd "$3"
tar xzf "$archive"
"$python" -m venv venv
venv/bin/python -m pip install -q --no-compile numpy cmake ninja
no_network=(unshare -n)
[[ "$(id -u)" == 0 ]] || no_network=(unshare -r -n)
exec "${no_network[@]}" env -i HOME="$PWD" PATH="$PWD/venv/bin:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin" \
  "$PWD/venv/bin/python" adapmoe-gpu/tests/gpu_bundle/run.py --until-device
