#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Says in one line what `make fuzz` lacks. Usage: check_fuzzer.sh CLANGXX
set -euo pipefail
program="$(mktemp)"
trap 'rm -f "$program"' EXIT
if ! "$1" -x c++ -std=c++20 -fsanitize=fuzzer,address,undefined -o "$program" - 2>/dev/null <<'CODE'
#include <cstddef>
extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, std::size_t) { return 0; }
CODE
then
  echo "fuzzing needs $1 with libFuzzer; on Debian: apt-get install clang libclang-rt-dev" >&2
  exit 1
fi
