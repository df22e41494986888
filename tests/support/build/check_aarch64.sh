#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Says in one line what `make aarch64` lacks.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
if ! aarch64-linux-gnu-g++ -x c++ -std=c++20 -o "$folder/program" - 2>/dev/null <<'CODE' ||
#include <string>
int main(int argc, char** argv) { return static_cast<int>(std::string(argv[argc - 1]).size()) * 0; }
CODE
  ! qemu-aarch64 -L /usr/aarch64-linux-gnu "$folder/program" 2>/dev/null
then
  echo "aarch64 needs a cross compiler and an emulator; on Debian or Ubuntu:" \
    "apt-get install g++-aarch64-linux-gnu qemu-user" >&2
  exit 1
fi
