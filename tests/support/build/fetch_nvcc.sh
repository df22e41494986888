#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs nvcc, with what it needs to compile and to link, from PyPI into FOLDER and prints its path,
# which is for CUDACXX. Needs no root, no GPU, and a Python with pip 25.1 or later.
# Usage: fetch_nvcc.sh PYTHON FOLDER
set -euo pipefail
project="$(cd "$(dirname "$0")/../../.." && pwd)/pyproject.toml"
"$1" -m pip install -q --upgrade --target "$2" --group "$project:cuda" >&2
toolkit="$(echo "$(realpath "$2")"/nvidia/cu*)"
# The packages lack the folder that nvcc links from, and the name that CMake looks for.
ln -sfn lib "$toolkit/lib64"
(cd "$toolkit/lib" && ln -sf libcudart.so.* libcudart.so)
"$toolkit/bin/nvcc" --version >&2
echo "$toolkit/bin/nvcc"
