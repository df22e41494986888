# SPDX-License-Identifier: Apache-2.0
"""Changes the manifest of a pack and gives it a right checksum again."""

import hashlib
import json
from pathlib import Path

import numpy as np

from adapmoe import _core
from adapmoe.pack.manifest import SMALL_FILES

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


def list_again(pack: Path) -> None:
    """Give the manifest size and SHA-256 of the small files as they are now, new ones too."""

    def change(manifest):
        for name in SMALL_FILES:
            if (pack / name).exists():
                data = (pack / name).read_bytes()
                digest = hashlib.sha256(data).hexdigest()
                manifest["files"][name] = {"bytes": len(data), "sha256": digest}

    edit_manifest(pack, change)


def edit_manifest(pack: Path, change) -> None:
    """Call `change(manifest)`, which edits the dictionary in place, and write the result."""
    path = pack / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_bytes(signed_text(manifest))
