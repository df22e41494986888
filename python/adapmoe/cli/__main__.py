# SPDX-License-Identifier: Apache-2.0
"""`python -m adapmoe.cli`."""

from adapmoe.cli import start

start()
