# SPDX-License-Identifier: Apache-2.0
"""What a wheel built by this Python is called: from 3.12 on it serves every later version."""

import sys

STABLE_SINCE = (3, 12)


def wheel_tags(version: tuple[int, int] = sys.version_info[:2]) -> str:
    """Its Python and ABI tags."""
    if version >= STABLE_SINCE:
        return "cp312-abi3"
    name = "cp{}{}".format(*version)
    return f"{name}-{name}"


def module_name(name: str, machine: str, version: tuple[int, int] = sys.version_info[:2]) -> str:
    """The file of a compiled module."""
    if version >= STABLE_SINCE:
        return f"{name}.abi3.so"
    return "{}.cpython-{}{}-{}-linux-gnu.so".format(name, *version, machine)
