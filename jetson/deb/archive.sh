# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# To be sourced: where releases of Debian and Ubuntu come from, and the keys that sign them.

ubuntu=http://archive.ubuntu.com/ubuntu

archive() { # SUITE
  case "$1" in
    jammy | noble) echo "$ubuntu" ;;
    *) echo http://deb.debian.org/debian ;;
  esac
}

# Prints a file of keys. Debian has no package of Ubuntu's keys: they come from Ubuntu, into FOLDER,
# and must be the very package that was looked at when this was written.
keyring() { # SUITE FOLDER
  local file=/usr/share/keyrings/ubuntu-archive-keyring.gpg
  if [[ "$(archive "$1")" != "$ubuntu" ]]; then
    file=/usr/share/keyrings/debian-archive-keyring.gpg
  elif [[ ! -e "$file" ]]; then
    local package="$2/ubuntu-keyring.deb"
    file="$2$file"
    if [[ ! -e "$file" ]]; then
      mkdir -p "$2"
      download "$ubuntu/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb" "$package" &&
        sha256sum --quiet -c - >&2 <<<"36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8  $package" &&
        dpkg-deb -x "$package" "$2" || return
    fi
  fi
  [[ -e "$file" ]] || { echo "no $file: apt-get install debian-archive-keyring" >&2; return 1; }
  echo "$file"
}

download() { # URL FILE
  python3 -c 'import sys, urllib.request
try:
    urllib.request.urlretrieve(*sys.argv[1:])
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")' "$1" "$2"
}
