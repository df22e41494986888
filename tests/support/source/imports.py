# SPDX-License-Identifier: Apache-2.0
"""Packages that every development environment on Linux and x86-64 has, and others may lack."""

import importlib
import platform
import sys

import pytest


def import_here(name):
    """The module `name`. Elsewhere a missing one skips; here, where CI runs, it is an error."""
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        return importlib.import_module(name)
    return pytest.importorskip(name)
