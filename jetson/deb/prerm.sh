#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl stop adapmoe.service 'adapmoe@*.service'
fi
# What postinst compiled, which dpkg knows nothing of.
find /opt/adapmoe/lib -name __pycache__ -type d -prune -exec rm -rf {} +
