#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Says in one line that this machine has no NVIDIA GPU, and ends with 1; with 0 where it has one.
# A driver's device file is enough, or a driver that answers (a container may hide the files).
# Usage: check_gpu.sh PYTHON     ADAPMOE_ROOT: look at /dev below this folder, and ask no driver
set -euo pipefail
root="${ADAPMOE_ROOT:-}"
for device in "$root"/dev/nvidia[0-9]* "$root"/dev/nvhost-gpu "$root"/dev/nvgpu; do
  [[ ! -e "$device" ]] || exit 0
done
if [[ -z "$root" ]] && "$1" 2>/dev/null - <<'CODE'; then exit 0; fi
import ctypes
cuda, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
found = cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0
raise SystemExit(not (found and count.value))
CODE
echo "no NVIDIA GPU here" >&2
exit 1
