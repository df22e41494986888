# SPDX-License-Identifier: Apache-2.0
"""Changes the manifest of a pack and gives it a right checksum again."""

import json
from pathlib import Path

import numpy as np

from adapmoe import _core

CHECKSUM = "~crc32c"


def sign(covered: bytes) -> bytes:
    """`covered`, which ends before the checksum's line, with that line and the closing brace."""
    checksum = _core.crc32c(np.frombuffer(covered, np.uint8))
    return covered + f'  "{CHECKSUM}": "{checksum:08x}"\n}}\n'.encode()


def signed_text(manifest) -> bytes:
    """The bytes of manifest.json. Python's NaN, Infinity and lone surrogates are written as is."""
    unsigned = {key: value for key, value in manifest.items() if key != CHECKSUM}
    text = json.dumps(unsigned, sort_keys=True, indent=2)
    return sign((text.removesuffix("\n}") + ",\n").encode())


def edit_manifest(pack: Path, change) -> None:
    """Call `change(manifest)`, which edits the dictionary in place, and write the result."""
    path = pack / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_bytes(signed_text(manifest))
