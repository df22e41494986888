# SPDX-License-Identifier: Apache-2.0
"""What the JSON files beside the weights of a pack begin with."""

from pathlib import Path
from typing import Any

from adapmoe.errors import AdapmoeError
from adapmoe.geometry import manifest_sha256


def check_header(
    found: Any,  # noqa: ANN401
    path: Path,
    pack: Path,
    kind: tuple[str, int],
    *,
    subject: str,
    remedy: str,
    error: type[AdapmoeError],
) -> None:
    """Raise `error` unless `found`, the JSON of `path`, is of this format, version and pack.

    For its message: `subject` comes before "of another pack"; `remedy` is what to do.
    """
    header = (found.get("format"), found.get("format_version")) if isinstance(found, dict) else ()
    if header != kind:
        raise error(f"{path}: is not {kind[0]} version {kind[1]}; {remedy}")
    expected = manifest_sha256(pack)
    if found.get("manifest_sha256") != expected:
        raise error(
            f"{path}: {subject} of another pack, with manifest.json of SHA-256 "
            f"{found.get('manifest_sha256')}, here it is {expected}; {remedy}"
        )
