#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks packages of a release of Debian or Ubuntu into FOLDER, without what they depend on. apt
# checks their signatures and only downloads, with lists of its own: this needs no root, installs
# nothing and changes no setting of the machine. Usage: fetch.sh SUITE ARCHITECTURE FOLDER PACKAGE...
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
(($# > 3)) || { sed -n 's/^# //; s/.*Usage: /Usage: /p' "$0" >&2; exit 2; }
suite="$1" architecture="$2"
mkdir -p "$3"
folder="$(realpath "$3")"
shift 3
command -v apt-get >/dev/null || { echo "fetch.sh: no apt-get here" >&2; exit 1; }

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/none"
: >"$work/status"
# shellcheck source=/dev/null
. "$here/archive.sh"
keys="$(keyring "$suite" "$work")"
echo "deb [signed-by=$keys] $(archive "$suite") $suite main" >"$work/sources.list"
apt=(-qq -o APT::Architecture="$architecture" -o APT::Architectures="$architecture"
  -o APT::Sandbox::User= -o Acquire::Languages=none
  -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/none"
  -o Dir::State="$work" -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status"
  -o Dir::Cache="$work/cache")
cd "$work/packages"
if ! { apt-get "${apt[@]}" update && apt-get "${apt[@]}" download "$@"; } >"$work/log" 2>&1; then
  echo "fetch.sh: cannot have $* of $suite for $architecture: $(grep -m 1 '^E:' "$work/log" || tail -n 1 "$work/log")" >&2
  exit 1
fi
for package in *.deb; do dpkg-deb -x "$package" "$folder"; done
