#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs AdapMoE for the whole machine: a system user and its group, which may write packs, a
# virtual environment, a folder for packs, and the command `adapmoe`; with a pack also a service
# that serves it (service.sh). Where the Debian package adapmoe is installed, only the service. It
# lists what it makes in PREFIX/installed.txt; --uninstall removes that and nothing else. Running it
# again updates the package and the service's plan.
set -euo pipefail
umask 022

root="${ADAPMOE_ROOT:-}" # before every path, and no need to be root (for tests)
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source="$(dirname "$here")"
prefix=/opt/adapmoe
data=/var/lib/adapmoe
user=adapmoe
python=python3
extras=
pack=
name=
memory=
dry=no
action=install

usage() {
  cat <<'TEXT'
Usage: install.sh [options] [PACK]
  PACK             serve this pack: plan its memory, and enable and start a service for it
  --name NAME      a service of its own, adapmoe@NAME, beside others
  --memory SIZE    its memory, such as 12GiB (default: as configured, else 80 % of what is free)
  --source PATH    a wheel, or a source tree (default: the tree this script is in)
  --prefix DIR     where the virtual environment goes (default: /opt/adapmoe)
  --data DIR       where packs go (default: /var/lib/adapmoe)
  --user NAME      system user that owns the packs (default: adapmoe); its group of the same name
                   may write them, and who calls sudo joins it
  --python PROGRAM Python 3.10 or later (default: python3)
  --extras NAMES   extras of the package, such as export
  --dry-run        only say what would be done
  --uninstall      remove what earlier runs made, services too; packs and edited files stay
TEXT
}

fail() { echo "error: $*" >&2; exit 1; }

while (($#)); do
  case "$1" in
    --dry-run) dry=yes ;;
    --uninstall) action=uninstall ;;
    -h | --help) usage; exit 0 ;;
    --source | --prefix | --data | --user | --python | --extras | --name | --memory)
      (($# > 1)) || fail "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift ;;
    -*) usage >&2; exit 2 ;;
    *)
      [[ -z "$pack" ]] || fail "one pack at a time: $pack, then $1"
      pack="$1" ;;
  esac
  shift
done
package_record=/etc/adapmoe/installed.txt # where the Debian package is installed
record="$prefix/installed.txt"

for path in "$prefix" "$data"; do
  [[ "$path" =~ ^/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)+$ && "$path" != *..* ]] ||
    fail "$path: expected an absolute path below a top folder, without blanks"
done
[[ "$user" =~ ^[a-z_][a-z0-9_-]*$ ]] || fail "--user $user: not a name of a user"
[[ "$name" =~ ^[A-Za-z0-9_-]*$ && "$name" != adapmoe ]] ||
  fail "--name $name: expected letters, digits, _ and -, and another name than adapmoe"
[[ -n "$pack" || -z "$name$memory" ]] || fail "--name and --memory need a PACK to serve"
if [[ -n "$pack" ]]; then
  pack="$(realpath "$pack")"
  extras="${extras:+$extras,}serve"
fi

# shellcheck source=/dev/null
. "$here/service.sh"

# run WORDS: runs a command, or with --dry-run only prints it.
run() {
  if [[ $dry == yes ]]; then echo "would run: $*"; else echo "run: $*"; "$@"; fi
}

# made KIND NAME: records what --uninstall may remove.
made() {
  if [[ $dry == no ]] && ! recorded "$1" "$2"; then echo "$1 $2" >>"$root$record"; fi
}
recorded() { grep -qxF "$1 $2" "$root$record" 2>/dev/null; }
packaged() { # as a Debian package
  [[ "$(dpkg-query -W -f='${db:Status-Status}' adapmoe 2>/dev/null)" == installed ]]
}
on_jetson() {
  [[ -e "$root/etc/nv_tegra_release" ]] ||
    grep -qs 'nvidia,tegra' "$root/proc/device-tree/compatible"
}
has_user() { getent passwd "$1" >/dev/null; }
has_group() { getent group "$1" >/dev/null; }
is_member() { [[ " $(id -nG "$1" 2>/dev/null) " == *" $2 "* ]]; } # USER GROUP

need_root() {
  [[ $dry == yes || -n "$root" || "$(id -u)" == 0 ]] || fail "run it as root: sudo $0"
}

check_requirements() {
  [[ -e "$source" ]] || fail "$source: no such wheel or source tree; give one with --source"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "$python is not Python 3.10 or later; apt install python3, or give one with --python"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv: apt install python3-venv"
  if [[ -d "$source" ]]; then
    local version
    version="$("${CXX:-g++}" -dumpversion 2>/dev/null || echo 0)"
    ((${version%%.*} >= 11)) || fail "a source tree needs g++ 11 or later: apt install g++"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
      fail "a source tree needs Python's headers: apt install python3-dev"
    [[ -e /usr/include/liburing.h ]] ||
      echo "note: no liburing.h, so this build reads without io_uring: apt install liburing-dev"
  fi
}

make_folder() { # PATH
  if [[ -d "$root$1" ]]; then echo "there already: $1"; return; fi
  run mkdir -p "$root$1"
  made folder "$1"
}

make_prefix() {
  if [[ -d "$root$prefix" && ! -e "$root$record" ]] && [[ -n "$(ls -A "$root$prefix")" ]]; then
    fail "$prefix exists and was not made by this script; choose another --prefix"
  fi
  if [[ ! -d "$root$prefix" ]]; then
    run mkdir -p "$root$prefix"
    made folder "$prefix"
  fi
}

join() { # USER GROUP
  if is_member "$1" "$2"; then return; fi
  run usermod -aG "$2" "$1" || return
  made member "$1:$2"
}

make_user() {
  if has_group "$user"; then
    echo "there already: group $user"
  else
    run groupadd --system "$user"
    made group "$user"
  fi
  if has_user "$user"; then
    echo "there already: user $user"
    join "$user" "$user"
  else
    run useradd --system --gid "$user" --home-dir "$data" --no-create-home \
      --shell /usr/sbin/nologin "$user"
    made user "$user"
  fi
  local group
  for group in video render; do # own the GPU's device nodes on a Jetson
    if has_group "$group"; then join "$user" "$group"; fi
  done
}

make_data() {
  make_folder "$data"
  recorded folder "$data" || [[ $dry == yes && ! -d "$root$data" ]] || return 0
  # Set-group-ID: files that members create there belong to the group.
  run chown "$user:$user" "$root$data"
  run chmod 2775 "$root$data"
  if [[ -n "${SUDO_USER:-}" && "$SUDO_USER" != root && "$SUDO_USER" != "$user" ]]; then
    if join "$SUDO_USER" "$user"; then
      echo "note: $SUDO_USER may write $data after logging in again"
    else
      echo "note: $SUDO_USER cannot join the group $user, as users of a directory service cannot"
    fi
  fi
}

make_venv() {
  local venv="$prefix/venv" options=()
  if "$root$venv/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
  # JetPack's TensorRT for Python is a system package.
  if on_jetson; then options=(--system-site-packages); fi
  made tree "$venv" # first, so that an interrupted one is known
  run "$python" -m venv --clear "${options[@]}" "$root$venv"
}

install_package() {
  local pip=("$root$prefix/venv/bin/python" -m pip install) package="$source"
  # Ubuntu 22.04's own pip cannot pass options to the build.
  run "${pip[@]}" --upgrade "pip>=23.1"
  if [[ -n "$extras" ]]; then package+="[$extras]"; fi
  if [[ -d "$source" ]]; then
    build_package "$package" "${pip[@]}"
  else
    run "${pip[@]}" --upgrade "$package"
    # pip thinks that another wheel of the same version is installed already.
    run "${pip[@]}" --force-reinstall --no-deps "$source"
  fi
}

build_package() { # PACKAGE PIP...
  local log="$prefix/build.log" package="$1"
  shift
  made log "$log"
  if [[ $dry == no ]]; then rm -f "$root$log"; fi
  # With a log, pip does not show the build itself.
  if ! run "$@" --upgrade "$package" -C cmake.define.ADAPMOE_CUDA=AUTO --log "$root$log"; then
    tail -n 30 "$root$log" >&2
    fail "the package could not be built; all of it is in $log"
  fi
  grep -ohs 'AdapMoE: .*' "$root$log" | sort -u || true
}

link_command() {
  local link=/usr/local/bin/adapmoe target="$prefix/venv/bin/adapmoe"
  if [[ -L "$root$link" && "$(readlink "$root$link")" == "$target" ]]; then
    echo "there already: $link"
  elif [[ -e "$root$link" || -L "$root$link" ]]; then
    echo "note: $link is something else and stays; call $target"
  else
    run mkdir -p "$root/usr/local/bin"
    run ln -s "$target" "$root$link"
    made link "$link"
  fi
}

remove_entry() { # KIND NAME
  case "$1" in
    user) if has_user "$2"; then run userdel "$2"; fi ;;
    # userdel may have removed it with its user.
    group) if has_group "$2"; then run groupdel "$2"; fi ;;
    member) if is_member "${2%:*}" "${2#*:}"; then run gpasswd -d "${2%:*}" "${2#*:}"; fi ;;
    log) run rm -f "$root$2" ;;
    tree) if [[ -d "$root$2" ]]; then run rm -rf "$root$2"; fi ;;
    link) if [[ -L "$root$2" ]]; then run rm "$root$2"; fi ;;
    enabled | unit | config) remove_service "$1" "$2" ;;
    folder)
      if [[ -d "$root$2" && -z "$(ls -A "$root$2")" ]]; then
        run rmdir "$root$2"
      elif [[ "$2" != "$prefix" && -d "$root$2" ]]; then
        echo "stays, because something is in it: $2"
      fi ;;
  esac
}

uninstall() {
  if [[ ! -e "$root$record" && -e "$root$package_record" ]]; then record="$package_record"; fi
  [[ -e "$root$record" ]] || fail "$record: missing, so there is nothing that this script made"
  local entries index
  mapfile -t entries <"$root$record"
  for ((index = ${#entries[@]} - 1; index >= 0; --index)); do
    if [[ "${entries[index]}" == "folder $prefix" ]]; then run rm "$root$record"; fi
    remove_entry "${entries[index]%% *}" "${entries[index]#* }"
  done
  if [[ -e "$root$record" ]]; then run rm "$root$record"; fi
  reload_units
}

need_root
if [[ $action == uninstall ]]; then
  uninstall
  exit 0
fi
program="$prefix/venv/bin/adapmoe"
if packaged; then
  [[ ! -e "$root$record" ]] || fail "$prefix has what an earlier run installed beside the Debian \
package: first $0 --uninstall"
  [[ -n "$pack" ]] || fail "the Debian package adapmoe is installed; give a PACK to serve"
  [[ "$user" == adapmoe ]] || fail "--user: the Debian package's services run as adapmoe"
  program=/usr/bin/adapmoe record="$package_record"
else
  check_requirements
  make_prefix
  make_user
  make_data
  make_venv
  install_package
  link_command
fi
if [[ -n "$pack" ]]; then serve_pack "$program" "$pack" "$name" "$memory"; fi
run "$root$program" doctor
