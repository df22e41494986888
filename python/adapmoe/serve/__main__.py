# SPDX-License-Identifier: Apache-2.0
"""`python -m adapmoe.serve`: the same as `adapmoe serve`."""

import sys

from adapmoe.cli import start

sys.argv.insert(1, "serve")
start()
