#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -e
[ "$1" = configure ] || exit 0

if command -v systemd-sysusers >/dev/null; then
  systemd-sysusers /usr/lib/sysusers.d/adapmoe.conf
else # the same by hand, as in a container
  for group in adapmoe video render; do
    getent group $group >/dev/null || groupadd --system $group
  done
  getent passwd adapmoe >/dev/null ||
    useradd --system --gid adapmoe --home-dir /var/lib/adapmoe --no-create-home \
      --shell /usr/sbin/nologin --comment "AdapMoE server" adapmoe
  usermod -aG video,render adapmoe
fi
if command -v systemd-tmpfiles >/dev/null; then
  systemd-tmpfiles --create /usr/lib/tmpfiles.d/adapmoe.conf
else
  install -d -m 2775 -o adapmoe -g adapmoe /var/lib/adapmoe
  install -d -m 0750 -o adapmoe -g adapmoe /var/cache/adapmoe
  install -d -m 0750 -o root -g adapmoe /etc/adapmoe
fi

# Services cannot write there, and would compile at every start. Some packages bring files for
# Pythons newer than this one, which do not compile.
/opt/adapmoe/bin/python3 -I -m compileall -q -j 0 /opt/adapmoe/lib >/dev/null 2>&1 || true

# Nothing is enabled or started here: install.sh does so, when it is given a pack.
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
  if [ -n "$2" ]; then systemctl try-restart adapmoe.service 'adapmoe@*.service' || true; fi
fi
