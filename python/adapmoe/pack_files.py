# SPDX-License-Identifier: Apache-2.0
"""The small files of a pack: checked against the manifest before anything in them is believed."""

import hashlib
import json
from pathlib import Path

from adapmoe.errors import PackError

# What the exporter may put beside the weights.
SMALL_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
)
_REMEDY = "copy or export the pack again"


def check_small_files(directory: Path, manifest_text: str) -> None:
    """Compare size and SHA-256 of every small file with the manifest.

    Args:
        directory: the pack.
        manifest_text: its manifest as `_core.inspect_pack` returns it, which has checked already
            that every file it lists is a regular file of the right size.

    Raises:
        PackError: a file is damaged, or there though the manifest does not list it.
    """
    listed = json.loads(manifest_text)["files"]
    for name in SMALL_FILES:
        path = directory / name
        if name not in listed:
            if path.exists() or path.is_symlink():
                raise PackError(f"{path}: not listed in the manifest's files; {_REMEDY}")
            continue
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != listed[name]["sha256"]:
            raise PackError(
                f"{path}: SHA-256 is {found}, expected {listed[name]['sha256']}; the file was "
                f"changed or damaged, {_REMEDY}"
            )
