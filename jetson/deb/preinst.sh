#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -e
# What install.sh of a source tree made in the same folder would be mixed with the package.
case "$1" in
  install | upgrade)
    if [ -e /opt/adapmoe/installed.txt ]; then
      echo "adapmoe: /opt/adapmoe was made by install.sh of a source tree;" \
        "call that with --uninstall first (packs stay)" >&2
      exit 1
    fi ;;
esac
