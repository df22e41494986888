#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command with a sanitized build of the package in front of the installed one.
# Usage: sanitized.sh SANITIZERS SITE COMMAND...     SANITIZERS: address,undefined or thread
# Python itself is not sanitized, so the sanitizers' libraries are preloaded; libstdc++ too, or the
# interceptor of exceptions would not find the function that it wraps. Python's own leaks at exit
# are not ours, hence no leak detection.
set -euo pipefail
sanitizers="$1"
site="$(cd "$2" && pwd)"  # absolute: tests start programs in other folders
shift 2
library() { "${CXX:-g++}" -print-file-name="$1"; }

preload=()
[[ "$sanitizers" == *address* ]] && preload+=("$(library libasan.so)")
[[ "$sanitizers" == *thread* ]] && preload+=("$(library libtsan.so)")
[[ "$sanitizers" == *undefined* ]] && preload+=("$(library libubsan.so)")
preload+=("$(library libstdc++.so)")

exec env PYTHONPATH="$site" PYTHONMALLOC=malloc ADAPMOE_SANITIZED="$sanitizers" \
  ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  TSAN_OPTIONS=halt_on_error=1 \
  LD_PRELOAD="${preload[*]}" "$@"
