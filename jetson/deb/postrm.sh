#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -e

# forget LINE: removes what install.sh made for a service, unless somebody changed it.
forget() {
  name="${1#* }"
  case "$1" in
    enabled\ *) rm -f "/etc/systemd/system/multi-user.target.wants/$name" ;;
    unit\ /etc/systemd/system/*) rm -f "$name" ;;
    folder\ /*) rmdir --ignore-fail-on-non-empty "$name" 2>/dev/null || true ;;
    config\ *)
      file="${name#* }"
      if [ "$(sha256sum <"$file" 2>/dev/null | cut -d ' ' -f 1)" = "${name%% *}" ]; then
        rm "$file"
      fi ;;
  esac
}

# The user and its groups stay, as those of other packages do: files may belong to it. So do packs,
# keys, and configurations that were edited.
if [ "$1" = purge ]; then
  record=/etc/adapmoe/installed.txt
  if [ -e $record ]; then
    lines="$(tac $record)"
    rm $record
    echo "$lines" | while read -r line; do forget "$line"; done
  fi
  rm -rf /var/cache/adapmoe
  for folder in /var/lib/adapmoe /etc/adapmoe; do
    if [ -d $folder ]; then rmdir --ignore-fail-on-non-empty $folder; fi
  done
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
