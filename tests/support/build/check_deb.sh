#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Says in one line what a Debian package lacks, after downloading what it needs.
# Usage: check_deb.sh PYTHON [VERSION ARCHITECTURE]; without a target: of the packages for this machine
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
for program in apt-get dpkg-deb readelf; do
  command -v "$program" >/dev/null || { echo "no $program here" >&2; exit 1; }
done
[[ -e "$1" ]] || exit 0 # `make deb` makes it, and asks again
version="${2:-3.12}" architecture="${3:-amd64}"
[[ "$architecture" != arm64 || "$(uname -m)" == aarch64 ]] || "$here/check_aarch64.sh"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
if ! PYTHON="$1" "$here/../../../jetson/deb/build.sh" --python "$version" --arch "$architecture" \
  --download >"$log" 2>&1; then
  grep -v '^WARNING' "$log" | tail -n 1 >&2
  exit 1
fi
