#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds a Debian package for Ubuntu 22.04 (Python 3.10, JetPack 6.2) or 24.04 (3.12, 7.2) from this
# tree. build.sh --help lists the options; $PYTHON is one with the dependency group `build`
# (default: an environment of its own in build/deb).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [[ -z "${PYTHON:-}" ]]; then
  PYTHON=build/deb/venv/bin/python
  if ! [[ build/deb/venv/ready -nt pyproject.toml ]]; then
    python3 -m venv --clear build/deb/venv
    "$PYTHON" -m pip install -q --upgrade "pip>=25.1" >&2
    "$PYTHON" -m pip install -q --group build >&2
    touch build/deb/venv/ready
  fi
fi
exec "$PYTHON" -m jetson.deb.build "$@"
