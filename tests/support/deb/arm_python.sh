#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks Debian's Python 3.13 for 64-bit Arm, with the libraries it runs with under qemu-aarch64. No
# archive has an older one for Arm that every machine reaches. Usage: arm_python.sh FOLDER
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
[[ ! -e "$1/usr/bin/python3.13" ]] || exit 0
"$here/jetson/deb/fetch.sh" trixie arm64 "$1" python3.13-minimal libpython3.13-minimal \
  libpython3.13-stdlib libc6 libstdc++6 libgcc-s1 zlib1g libexpat1 libffi8
ln -sfn usr/lib "$1/lib"
