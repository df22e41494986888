# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2154
# The second half of install.sh, which reads this file: a pack becomes a service of systemd.

etc=/etc/adapmoe
cache=/var/cache/adapmoe
units=/etc/systemd/system

booted() { [[ -d "$root/run/systemd/system" ]]; }
digest() { sha256sum <"$root$1" | cut -d ' ' -f 1; }
reload_units() { if booted; then run systemctl daemon-reload; fi; }

# replace PATH: makes a file of the standard input, whole or not at all.
replace() {
  local new="$root${1%/*}/.${1##*/}.$$"
  if [[ $dry == yes ]]; then
    cat >/dev/null # its writer would die of a closed pipe
    echo "would write: $1"
    return
  fi
  cat >"$new"
  chmod 644 "$new"
  if cmp -s "$new" "$root$1"; then
    rm "$new"
    echo "there already: $1"
  else
    mv -f "$new" "$root$1"
    echo "written: $1"
  fi
}

# As the service runs: its user, and nothing of this environment.
as_service() {
  runuser -u "$user" -- env -i PATH="$PATH" LANG=C.UTF-8 XDG_CACHE_HOME="$root${cache%/*}" \
    CUDA_CACHE_PATH="$root$cache/cuda" "$@"
}

# check_pack PACK: refuses what a service could not open.
check_pack() {
  [[ -e "$1/manifest.json" ]] || fail "$1: not a pack: there is no manifest.json in it"
  [[ "$1" =~ ^[A-Za-z0-9/._@:+,-]+$ ]] ||
    fail "$1: a service's pack has only letters, digits and /._@:+,- in its path: rename it"
  case "$1" in
    /tmp/* | /var/tmp/*) [[ -n "$root" ]] ||
      fail "$1: a service does not see /tmp; move the pack to $data" ;;
  esac
}

# check_readable PACK: whether the service's user can read all of it.
check_readable() {
  if [[ $dry == yes ]]; then echo "would check: $user can read $1"; return; fi
  local unreadable
  unreadable="$(as_service find "$1" ! -readable 2>&1 | head -n 1)"
  if [[ -z "$unreadable" ]]; then return; fi
  fail "$user cannot read $unreadable
For the pack:            sudo chgrp -R $user $1 && sudo chmod -R g+rX $1
For the folders above:   sudo chmod o+x FOLDER  (namei -l $1 shows them), or move it to $data"
}

# make_folders: for configuration and for what is remembered.
make_folders() {
  make_folder "$etc"
  if recorded folder "$etc"; then
    run chgrp "$user" "$root$etc"
    run chmod 750 "$root$etc"
  fi
  if [[ ! -d "$root$cache" ]]; then
    run mkdir -p "$root$cache"
    made tree "$cache"
  fi
  run chown "$user:$user" "$root$cache"
  run chmod 750 "$root$cache"
}

# install_units PROGRAM: both units, for this program and this user.
install_units() {
  local unit target version
  for unit in adapmoe.service adapmoe@.service; do
    target="$units/$unit"
    if [[ -e "$root$target" ]] && ! recorded unit "$target"; then
      fail "$target exists and was not made by this script; move it away"
    fi
    if [[ ! -d "$root$units" ]]; then run mkdir -p "$root$units"; fi
    made unit "$target"
    sed -e "s|/usr/bin/adapmoe|$1|" -e "s/^\(User\|Group\)=adapmoe$/\1=$user/" \
      "$here/systemd/$unit" | replace "$target"
    version="$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
    if ((${version:-0} >= 254)); then
      make_folder "$target.d"
      made unit "$target.d/backoff.conf"
      replace "$target.d/backoff.conf" <"$here/systemd/backoff.conf"
    fi
  done
}

# install_config FILE NAME: unless it was edited. Further packs get a port of their own.
install_config() {
  local file="$1" port=''
  if [[ -e "$root$file" ]] && ! recorded config "$(digest "$file") $file"; then
    echo "stays as it is: $file"
    return
  fi
  if [[ -n "$2" ]]; then
    port="$(sed -n 's/^port = //p' "$root$file" 2>/dev/null || true)"
    port="${port:-$(free_port)}"
  fi
  sed "${port:+s/^#port = 8000\$/port = $port/}" "$here/systemd/adapmoe.toml" | replace "$file"
  if [[ $dry == no ]] && ! recorded config "$(digest "$file") $file"; then
    sed -i "\|^config [0-9a-f]* $file\$|d" "$root$record" # of an older one
    made config "$(digest "$file") $file"
  fi
}

# The first port from 8001 on that no configuration here names.
free_port() {
  local port=8001
  while grep -qsx "port = $port" "$root$etc"/*.toml; do port=$((port + 1)); done
  echo "$port"
}

# value NAME TOML: of a line NAME = VALUE, without quotes.
value() { sed -n "s/^$1 = \"\{0,1\}\([^\"]*\)\"\{0,1\}\$/\1/p" <<<"$2"; }

# make_plan PROGRAM PACK CONFIG MEMORY: sets `planned` to the lines of the drop-in, and `address`.
make_plan() {
  local program="$root$1" pack="$2" config="$3" memory="$4" settings options found drain
  local check=("$program" serve "$pack" --config "$root$config" --check-config)
  if [[ $dry == yes ]]; then
    echo "would run: ${check[*]}"
    echo "would run: $program plan $pack --json, as $user"
    return
  fi
  settings="$(as_service "${check[@]}")" || return
  [[ -z "$(value experts_resident "$settings")" ]] ||
    { echo "error: $config: experts_resident is not for a service; set memory" >&2; return 1; }
  options=(--memory "${memory:-$(value memory "$settings")}"
    --max-context "$(value max_context "$settings")"
    --max-sequences "$(value max_sequences "$settings")")
  echo "run: $program plan $pack --json ${options[*]}, as $user"
  found="$(as_service "$program" plan "$pack" --json "${options[@]}")" || return
  [[ "$found" =~ \"recommended\":\ \{\"memory\":\ ([0-9]+).*\"memory_max_bytes\":\ ([0-9]+) ]] ||
    { echo "error: the plan names no memory: $found" >&2; return 1; }
  drain="$(value drain "$settings")"
  address="$(value host "$settings"):$(value port "$settings")"
  planned="Environment=ADAPMOE_PACK=$pack
Environment=ADAPMOE_MEMORY=${BASH_REMATCH[1]}
MemoryMax=${BASH_REMATCH[2]}
TimeoutStopSec=$((${drain%.*} + 30))s"
  case "$pack $program" in
    */home/* | */root/*) planned+=$'\nProtectHome=read-only' ;;
  esac
}

# write_plan UNIT: the drop-in with `planned`.
write_plan() {
  local file="$units/$1.d/plan.conf"
  make_folder "$units/$1.d"
  made unit "$file"
  {
    echo "# Written by jetson/install.sh from what \`adapmoe plan\` measured; run it again to renew this."
    echo "[Service]"
    echo "$planned"
  } | replace "$file"
}

# start_unit UNIT: now, where systemd runs, and at every boot.
start_unit() {
  reload_units
  made enabled "$1"
  if ! booted; then
    run systemctl ${root:+"--root=$root"} enable "$1"
    echo "note: systemd does not run here; $1 starts at the next boot"
    return
  fi
  run systemctl enable "$1"
  run systemctl restart "$1" || fail "$1 does not serve; journalctl -u $1 says why"
  echo "$1 serves at $address"
}

# serve_pack PROGRAM PACK NAME MEMORY: all of it; NAME and MEMORY may be empty.
serve_pack() {
  local program="$1" pack="$2" name="$3" unit="adapmoe${3:+@$3}.service" was_active=no
  local config="$etc/${name:-adapmoe}.toml" planned='' address=''
  check_pack "$pack"
  make_folders
  if ! packaged; then install_units "$program"; fi
  install_config "$config" "$name"
  check_readable "$pack"
  # Its memory counts as available only once it has ended.
  if booted && systemctl is-active -q "$unit"; then
    was_active=yes
    run systemctl stop "$unit"
  fi
  if ! make_plan "$program" "$pack" "$config" "$4"; then
    if [[ $was_active == yes ]]; then run systemctl start "$unit"; fi
    fail "$pack cannot be served; the lines above say why"
  fi
  write_plan "$unit"
  start_unit "$unit"
}

# remove_service KIND NAME: what serve_pack made.
remove_service() {
  case "$1" in
    enabled)
      run systemctl ${root:+"--root=$root"} disable "$2"
      if booted; then run systemctl stop "$2"; fi ;;
    unit)
      if [[ -e "$root$2" ]]; then run rm "$root$2"; fi ;;
    config)
      local file="${2#* }"
      if [[ ! -e "$root$file" ]]; then return; fi
      if [[ "$(digest "$file")" == "${2%% *}" ]]; then
        run rm "$root$file"
      else
        echo "stays, because it was edited: $file"
      fi ;;
  esac
}
