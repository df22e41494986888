#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiles every .cu file for each compute capability given (87 90 ...), and keeps nothing.
set -euo pipefail
cd "$(dirname "$0")/../.."
for kernel in runtime/backend/cuda/*.cu; do
  for capability in "$@"; do
    nvcc -std=c++20 -O3 --fmad=false --expt-relaxed-constexpr -Werror all-warnings -I. \
      -arch "sm_$capability" --cubin -o /dev/null "$kernel"
    echo "$kernel: compiled for sm_$capability"
  done
done
