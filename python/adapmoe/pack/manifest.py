# SPDX-License-Identifier: Apache-2.0
"""The manifest of a pack, and what follows from it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapmoe.errors import AdapmoeError, PackError

if TYPE_CHECKING:
    from adapmoe._core import MemorySplit


@dataclass(frozen=True)
class PackGeometry:
    """Counts, and sizes in bytes.

    Attributes:
        manifest_sha256: which pack.
        fixed_bytes: what a session takes besides experts: dense weights, KV cache and scratch.
    """

    manifest_sha256: str
    num_layers: int
    num_experts: int
    top_k: int
    expert_bytes: int
    fixed_bytes: int

    @classmethod
    def of(cls, pack: Path, split: "MemorySplit") -> "PackGeometry":
        """Of a pack that is open with this memory split."""
        manifest = read_manifest(pack)
        return cls(
            manifest_sha256(pack),
            manifest["config"]["num_hidden_layers"],
            manifest["config"]["num_local_experts"],
            manifest["router"]["top_k"],
            manifest["experts"]["expert_bytes"],
            split.dense_bytes + split.kv_bytes + split.scratch_bytes,
        )

    @property
    def experts(self) -> int:
        """How many there are in all layers."""
        return self.num_layers * self.num_experts

    @property
    def cycle(self) -> int:
        """Experts that one token needs."""
        return self.num_layers * self.top_k

    @property
    def everything_bytes(self) -> int:
        """The ceiling from which on all experts are resident."""
        return self.fixed_bytes + self.experts * self.expert_bytes

    def capacity(self, memory_bytes: int) -> int:
        """Whole experts that fit under a ceiling; negative below `fixed_bytes`."""
        return min((memory_bytes - self.fixed_bytes) // self.expert_bytes, self.experts)


def manifest_sha256(pack: Path) -> str:
    """SHA-256 of `manifest.json`, which names a pack: 64 hex digits.

    Raises:
        PackError: it cannot be read.
    """
    return hashlib.sha256(_manifest(pack)).hexdigest()


def read_manifest(pack: Path) -> dict[str, Any]:
    """The manifest of a pack that a session has validated. Raises PackError as above."""
    found: dict[str, Any] = json.loads(_manifest(pack))
    return found


def _manifest(pack: Path) -> bytes:
    path = pack / "manifest.json"
    try:
        return path.read_bytes()
    except OSError as error:
        raise PackError(f"{path}: cannot be read: {error.strerror}") from error


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


def check_header(
    found: Any,
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
