#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command inside a root, with no network but its own loopback. Mounts, network and processes
# end with it, however it ends. Usage: in_root.sh ROOT COMMAND...
set -euo pipefail
# shellcheck disable=SC2016
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/mnt \
  DEBIAN_FRONTEND=noninteractive unshare --mount --net --ipc --pid --fork --kill-child sh -c '
    set -e
    mount -t proc proc "$1/proc"
    ip link set lo up
    exec chroot "$@"' sh "$@"
