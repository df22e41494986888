#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Examines a device before anything is installed: what `adapmoe doctor` reports, with nothing but a
# shell. Changes nothing, needs no root. Ends with 1 if there is a problem, otherwise with 0.
# Usage: check_device.sh [FOLDER]   (the folder for packs; default: the current folder)
# ADAPMOE_ROOT: look at /proc, /sys and /etc below this folder instead (for tests).
set -u
root="${ADAPMOE_ROOT:-}"
folder="${1:-.}"
problems=0

# report STATUS TOPIC SEEN [REMEDY]
report() {
  printf '%-8s %-14s %s\n' "$1" "$2" "$3"
  if [ -n "${4:-}" ]; then printf '%-8s %-14s   remedy: %s\n' '' '' "$4"; fi
  if [ "$1" = problem ]; then problems=$((problems + 1)); fi
}

# The contents of a small file without NULs; nothing if it cannot be read.
text() { [ -r "$root/$1" ] && [ ! -d "$root/$1" ] && tr -d '\000' <"$root/$1" 2>/dev/null; }
# meminfo FIELD: kB
meminfo() { text proc/meminfo | sed -n "s/^$1: *\([0-9]*\) kB.*/\1/p" | head -n 1; }
gib() { awk -v kb="$1" 'BEGIN { printf "%.2f GiB", kb / 1048576 }'; }
# Whether this is a real machine and not a test's tree; if so, commands may be used too.
real() { [ -z "$root" ]; }
found() { real && command -v "$1" >/dev/null 2>&1; }
number() { case "$1" in '' | *[!0-9]*) return 1 ;; esac; }

jetson=no
case "$(text proc/device-tree/compatible)" in *nvidia,tegra*) jetson=yes ;; esac
[ -e "$root/etc/nv_tegra_release" ] && jetson=yes
# How bad it is to have no CUDA toolkit, and what to do about it.
missing=note toolkit="install the CUDA toolkit, if there is an NVIDIA GPU"
if [ "$jetson" = yes ]; then missing=warning toolkit="sudo apt install nvidia-jetpack"; fi

check_system() {
  model="$(text proc/device-tree/model)"
  report ok system "${model:-$(uname -m)}, Linux $(text proc/sys/kernel/osrelease)"
  [ "$jetson" = yes ] || { report ok jetpack "not a Jetson"; return; }
  release="$(text etc/nv_tegra_release |
    sed -n 's/^# *R\([0-9]*\) (release), REVISION: \([0-9.]*\).*/\1.\2/p')"
  case "$release" in
    36.4* | 36.5*) report ok jetpack "L4T $release: JetPack 6.1 or 6.2" ;;
    39.2*) report ok jetpack "L4T $release: JetPack 7.2" ;;
    '') report note jetpack "no release in /etc/nv_tegra_release" \
      "in a container, mount that file from the host" ;;
    [1-9].* | [12][0-9].* | 3[0-5].*)
      report warning jetpack "L4T $release" "flash JetPack 6.2 or 7.2" ;;
    *) report note jetpack "L4T $release: not known to this script" \
      "go by what follows; if it is not enough, flash JetPack 6.2 or 7.2" ;;
  esac
}

# The nvcc that a build uses: in the order of runtime/find_nvcc.cmake.
find_nvcc() {
  if real && [ -n "${CUDACXX:-}" ]; then echo "$CUDACXX"; return; fi
  if found nvcc; then command -v nvcc; return; fi
  {
    echo "$root/usr/local/cuda/bin/nvcc"
    printf '%s\n' "$root"/usr/local/cuda-*/bin/nvcc | sort -rV
  } | while read -r nvcc; do
    if [ -x "$nvcc" ]; then echo "$nvcc"; break; fi
  done
}

check_cuda() {
  nvcc="$(find_nvcc)"
  version="$("${nvcc:-false}" --version 2>/dev/null |
    sed -n 's/.*release [0-9.]*, V\([0-9.]*\).*/\1/p')"
  folder_seen=''
  for local in "$root"/usr/local/cuda "$root"/usr/local/cuda-*; do
    [ -z "$folder_seen" ] && [ -d "$local" ] && folder_seen="${local#"$root"}"
  done
  if [ -n "$version" ]; then
    report ok cuda "CUDA $version: ${nvcc#"$root"}"
  elif [ -n "$nvcc" ]; then
    report note cuda "${nvcc#"$root"} does not answer" \
      "point CUDACXX to an nvcc that works, or unset it"
  elif [ -n "$folder_seen" ]; then
    stated="$(text "${folder_seen#/}/version.json" | tr -d '\n' |
      sed -n 's/.*"cuda" *: *{[^}]*"version" *: *"\([^"]*\)".*/ (CUDA \1)/p')"
    report "$missing" cuda "$folder_seen$stated has no bin/nvcc" "$toolkit"
  else
    report "$missing" cuda "no nvcc: a build here has no GPU kernels" "$toolkit"
  fi
  check_tensorrt
}

check_tensorrt() {
  library="$(find_library libnvinfer.so.11)"
  [ -n "$library" ] || library="$(find_library libnvinfer.so.10)"
  headers="$(find "$root"/usr/include -maxdepth 2 -name NvInferRuntime.h 2>/dev/null)"
  if [ -n "$library" ] && [ "$jetson" = yes ] && [ -z "$headers" ]; then
    report note tensorrt "$library, no headers: a build here cannot run engines" \
      "sudo apt install libnvinfer-headers-dev"
  elif [ -n "$library" ]; then
    report ok tensorrt "$library"
  elif [ "$jetson" = yes ]; then
    report note tensorrt "no libnvinfer" "sudo apt install nvidia-jetpack, or tensorrt alone"
  else
    report ok tensorrt "none; only engines need it"
  fi
}

# The path of a library in the loader's cache.
find_library() {
  real || { find "$root/usr/lib" -name "$1*" 2>/dev/null | sort | sed -n 1p; return; }
  { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | sed -n "s|.*$1 .*=> ||p" | head -n 1
}

check_memory() {
  total="$(meminfo MemTotal)" available="$(meminfo MemAvailable)" nvmap="$(meminfo NvMapMemUsed)"
  if ! number "$total" || ! number "$available"; then
    report note memory "/proc/meminfo cannot be read" "mount /proc"
  elif [ "$available" -lt 4194304 ]; then
    report warning memory "$(gib "$available") of $(gib "$total") available" \
      "end other programs; without a desktop: sudo systemctl set-default multi-user.target"
  else
    report ok memory "$(gib "$available") of $(gib "$total") available"
  fi
  if number "$nvmap"; then
    report ok nvmap "$(gib "$nvmap") in use by the GPU driver"
  elif [ "$jetson" = yes ]; then
    report note nvmap "no NvMapMemUsed in /proc/meminfo" \
      "sudo cat /sys/kernel/debug/nvmap/iovmm/clients"
  fi
  check_cgroup
  check_swap
}

# The smallest limit of this process's cgroups and their parents.
check_cgroup() {
  if [ ! -r "$root/proc/self/cgroup" ]; then
    report note cgroup "/proc/self/cgroup cannot be read" "mount /proc"
    return
  fi
  least=''
  for line in $(text proc/self/cgroup | tr ' ' '?'); do
    controllers="${line#*:}" path="${line#*:*:}"
    controllers="${controllers%%:*}"
    case ",$controllers," in
      ,,) mount=sys/fs/cgroup file=memory.max ;;
      *,memory,*) mount=sys/fs/cgroup/memory file=memory.limit_in_bytes ;;
      *) continue ;;
    esac
    path="${path%/}"
    while :; do
      limit="$(text "$mount$path/$file")"
      # 19 digits is version 1's "no limit"
      if number "$limit" && [ ${#limit} -lt 19 ]; then
        if [ -z "$least" ] || [ "$limit" -lt "$least" ]; then least="$limit"; fi
      fi
      [ -n "$path" ] || break
      path="${path%/*}"
    done
  done
  if [ -n "$least" ]; then
    report note cgroup "memory limited to $(gib $((least / 1024)))" \
      "raise it to keep more experts resident: MemoryMax=, or docker run --memory"
  else
    report ok cgroup "no memory limit"
  fi
}

check_swap() {
  if [ ! -r "$root/proc/swaps" ] && [ "$(meminfo SwapTotal)" != 0 ]; then
    report note swap "/proc/swaps cannot be read" "mount /proc"
    return
  fi
  areas="$(text proc/swaps | sed 1d | awk '{ printf "%s%s", sep, $1; sep = ", " }')"
  case "$areas" in
    '') report ok swap none ;;
    *zram*) if [ "$jetson" = yes ]; then
      report warning swap "$areas" "sudo systemctl disable --now nvzramconfig, then reboot"
    else
      report note swap "$areas" "turn it off: sudo swapoff /dev/zram*"
    fi ;;
    *) report ok swap "$areas" ;;
  esac
}

check_disk() {
  drives=0
  for drive in "$root"/sys/class/nvme/nvme*; do
    [ -e "$drive/model" ] || continue
    drives=$((drives + 1))
    name="sys/class/nvme/$(basename "$drive")"
    model="$(text "$name/model" | sed 's/ *$//')"
    now="$(link "$name/device" current)" most="$(link "$name/device" max)"
    slot="$(link "$name/device/.." max)"
    if [ -z "$now" ] || [ -z "$most" ] || [ "$now" = "$most" ]; then
      report ok nvme "$model, link ${now:-unknown}"
    elif [ "$now" = "$slot" ]; then
      report note nvme "$model, link $now, the drive can $most" "nothing: the slot ends at $slot"
    else
      report warning nvme "$model, link $now, the drive can $most" \
        "seat the drive again; sudo dmesg | grep -i pcie"
    fi
  done
  [ $drives -gt 0 ] || report note nvme "no NVMe drive to be seen" "fit one for packs"
  if real; then check_direct; fi
  check_ring
}

# "16.0 GT/s x4" of a PCIe device, `current` or `max`; nothing if unknown.
link() {
  speed="$(text "$1/$2_link_speed" | sed -n 's|^\([0-9.]* GT/s\).*|\1|p')"
  width="$(text "$1/$2_link_width")"
  if [ -n "$speed" ] && number "$width"; then echo "$speed x$width"; fi
}

check_direct() {
  kind="$(stat -f -c %T "$folder" 2>/dev/null)"
  if ! found mktemp || ! found dd; then
    report note o_direct "not tried: no mktemp or no dd" "sudo apt install coreutils"
    return
  fi
  probe="$(mktemp "$folder/.adapmoe-check-XXXXXX" 2>/dev/null)" || {
    report note o_direct "not tried: $folder cannot be written" "give a folder that can be"
    return
  }
  dd if=/dev/zero of="$probe" bs=4096 count=1 conv=fsync 2>/dev/null
  if dd if="$probe" of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null; then
    report ok o_direct "works in $folder ($kind)"
  else
    report warning o_direct "refused in $folder ($kind)" \
      "keep packs on ext4 or xfs; in a container, mount their folder as a volume"
  fi
  rm -f "$probe"
}

check_ring() {
  disabled="$(text proc/sys/kernel/io_uring_disabled)"
  config="$({ zcat "$root/proc/config.gz" || cat "$root/boot/config-$(uname -r)"; } 2>/dev/null |
    sed -n 's/^.*CONFIG_IO_URING[ =]//p' | head -n 1)"
  seccomp="$(text proc/self/status | sed -n 's/^Seccomp:[[:space:]]*//p')"
  if number "$disabled" && [ "$disabled" -gt 0 ]; then
    report note io_uring "kernel.io_uring_disabled is $disabled" \
      "sudo sysctl kernel.io_uring_disabled=0"
  elif [ "$config" = "is not set" ]; then
    report note io_uring "not in this kernel: a pool of threads reads instead" \
      "a kernel built with CONFIG_IO_URING"
  elif [ "$seccomp" = 2 ]; then
    report note io_uring "a seccomp filter may forbid it; adapmoe doctor tries it" \
      "docker run --security-opt seccomp=PROFILE with io_uring_* allowed"
  elif [ -z "$seccomp" ]; then
    report note io_uring "not to be seen whether something forbids it" \
      "mount /proc; adapmoe doctor tries it"
  else
    report ok io_uring "nothing forbids it; adapmoe doctor tries it"
  fi
}

check_power() {
  [ "$jetson" = yes ] || return 0
  id="$(text var/lib/nvpmodel/status | sed -n 's/.*pmode:0*\([0-9][0-9]*\).*/\1/p')"
  modes="$(text etc/nvpmodel.conf | sed -n 's/^< *POWER_MODEL ID=\([0-9]*\) NAME=\([^ ]*\).*/\1 \2/p')"
  mode="$(echo "$modes" | sed -n "s/^${id:-none} //p")"
  best="$(echo "$modes" | grep ' MAXN' | sort -k 2 | tail -n 1)"
  if [ -z "$id" ]; then
    report note power_mode "unknown" "sudo nvpmodel -q"
  elif [ -z "$best" ] || [ "$mode" = "${best#* }" ]; then
    report ok power_mode "${mode:-number $id}"
  else
    report warning power_mode "${mode:-number $id}" "sudo nvpmodel -m ${best% *} sets ${best#* }"
  fi
  check_clocks cpu_clocks scaling_min_freq scaling_max_freq \
    "$root"/sys/devices/system/cpu/cpufreq/policy*
  check_clocks gpu_clocks min_freq max_freq \
    "$root"/sys/class/devfreq/*.gpu "$root"/sys/class/devfreq/*.ga10b
}

# check_clocks TOPIC MIN MAX FOLDER...: whether clocks are fixed, because minimum equals maximum.
check_clocks() {
  topic="$1" least_file="$2" most_file="$3" held=''
  shift 3
  for clock in "$@"; do
    clock="${clock#"$root"/}"
    low="$(text "$clock/$least_file")" high="$(text "$clock/$most_file")"
    if [ "$(text "$clock/scaling_governor")" = performance ]; then low="$high"; fi
    if ! number "$low" || ! number "$high"; then continue; fi
    if [ "$low" != "$high" ]; then held=no; fi
    held="${held:-yes}"
  done
  case "$held" in
    yes) report ok "$topic" "held up" ;;
    no) report warning "$topic" "fall when idle" "sudo jetson_clocks, after nvpmodel" ;;
    *) report note "$topic" "not to be seen" "on the host: sudo jetson_clocks --show" ;;
  esac
}

check_tools() {
  features="$(text proc/cpuinfo | sed -n 's/^\(flags\|Features\)[[:space:]]*: *//p' | head -n 1)"
  case " $features " in
    *' avx512_vnni '*) report ok kernels "avx512, if the other AVX-512 parts are there too" ;;
    *' avx2 '*) report ok kernels avx2 ;;
    *' asimddp '*) report ok kernels neon ;;
    *) report warning kernels "scalar" "a processor with AVX2, or Arm with dot products" ;;
  esac
  real || return 0
  if ! found python3 || ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    report problem python "no Python 3.10 or later" "sudo apt install python3 python3-venv"
  elif ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    report problem python "no venv or ensurepip" "sudo apt install python3-venv"
  else
    report ok python "$(python3 --version)"
  fi
  compiler="$(g++ -dumpversion 2>/dev/null)"
  compiler="${compiler%%.*}"
  if number "$compiler" && [ "$compiler" -ge 11 ]; then
    report ok compiler "g++ $compiler"
  else
    report note compiler "no g++ 11 or later: a wheel is needed" "sudo apt install g++ python3-dev"
  fi
  [ -e /usr/include/liburing.h ] ||
    report note liburing "a build here would have no io_uring" "sudo apt install liburing-dev"
}

check_system
check_cuda
check_memory
check_disk
check_power
check_tools
[ "$problems" -eq 0 ]
