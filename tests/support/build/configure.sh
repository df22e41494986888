#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs CMake and prints, of what it says, which optional parts are built and which are left out, and
# why; warnings and errors besides. Usage: configure.sh CMAKE OPTION...
set -euo pipefail
"$@" | { grep -o 'AdapMoE: .*' || true; }
