#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the archive of a small Ubuntu with Python: in a moment where it is there already, else in about
# a minute, as root. Usage: make_root.sh jammy|noble FILE.tar
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)"
suite="$1" archive="$(realpath -m "$2")"
[[ ! -e "$archive" ]] || exit 0
# shellcheck source=/dev/null
. "$here/jetson/deb/archive.sh"
[[ "$(id -u)" == 0 ]] || { echo "a clean root needs root" >&2; exit 1; }
command -v debootstrap >/dev/null ||
  { echo "a clean root needs debootstrap: apt-get install debootstrap" >&2; exit 1; }

mkdir -p "$(dirname "$archive")"
work="$(mktemp -d "$archive.XXXXXX")"
trap 'rm -rf --one-file-system "$work"' EXIT
script="/usr/share/debootstrap/scripts/$suite"
[[ -e "$script" ]] || script=/usr/share/debootstrap/scripts/gutsy # what those of all releases link to
keys="$(keyring "$suite" "$work/keys")"
# The later release with systemd, the earlier one without: the package serves both.
packages=python3
[[ "$suite" == jammy ]] || packages=python3,systemd
if ! unshare --mount debootstrap --keyring="$keys" --variant=minbase --include="$packages" \
  "$suite" "$work/root" "$(archive "$suite")" "$script" >"$work/log" 2>&1; then
  echo "no clean root of $suite: $(grep -m 1 '^E:' "$work/log" || tail -n 1 "$work/log")" >&2
  exit 1
fi
rm -rf "$work/root/var/cache/apt/archives"/*.deb "$work/root/var/lib/apt/lists"/*
tar -C "$work/root" --one-file-system -cf "$work/root.tar" .
mv "$work/root.tar" "$archive"
