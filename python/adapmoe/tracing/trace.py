# SPDX-License-Identifier: Apache-2.0
"""Recorded routing: which experts each layer needed, pass by pass, in a file.

A trace is a NumPy .npz archive (zip) of four arrays and a header; README.md lists them.
"""

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from adapmoe.core_types import RoutingVisit
from adapmoe.errors import TraceError
from adapmoe.machine.files import write_output
from adapmoe.pack.manifest import PackGeometry

_FORMAT, _VERSION = "adapmoe-trace", 1
_ARRAYS = ("passes", "layers", "counts", "experts")
_Size = Annotated[int, Meta(gt=0, lt=1 << 62)]


class _Kind(Struct):
    format: Any = None
    version: Any = None


class _Sizes(Struct):
    num_layers: _Size
    num_experts: _Size
    top_k: _Size
    expert_bytes: _Size
    fixed_bytes: _Size


class _Header(_Sizes):
    pack: str


@dataclass(frozen=True)
class Trace:
    """The routing of one session, and what a replay needs to know about its pack."""

    geometry: PackGeometry
    visits: list[RoutingVisit]

    @property
    def passes(self) -> int:
        """How many passes over all layers were recorded."""
        return len({visit.pass_index for visit in self.visits})

    def counts(self) -> NDArray[np.int64]:
        """How often each expert was needed, int64 `[num_layers, num_experts]`."""
        found = np.zeros((self.geometry.num_layers, self.geometry.num_experts), np.int64)
        for _, layer, experts in self.visits:
            found[layer, experts] += 1
        return found

    def decode_only(self) -> "Trace":
        """Without the passes in which a layer needed more experts than one token can."""
        prefill = {v.pass_index for v in self.visits if len(v.experts) > self.geometry.top_k}
        return Trace(self.geometry, [v for v in self.visits if v.pass_index not in prefill])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file; an old one is replaced in one step.

        Raises:
            TraceError: it cannot be written.
        """
        target = Path(path)
        header: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
        header["pack"] = self.geometry.manifest_sha256
        header |= {name: getattr(self.geometry, name) for name in _Sizes.__struct_fields__}
        arrays: dict[str, Any] = {
            "passes": np.array([v.pass_index for v in self.visits], np.int32),
            "layers": np.array([v.layer for v in self.visits], np.int16),
            "counts": np.array([len(v.experts) for v in self.visits], np.int16),
            "experts": np.array([e for v in self.visits for e in v.experts], np.int16),
            "header": np.array(json.dumps(header, allow_nan=False)),
        }
        archive = io.BytesIO()
        np.savez_compressed(archive, **arrays)
        try:
            write_output(target, archive.getvalue())
        except OSError as error:
            raise TraceError(f"{target}: the trace cannot be written: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Trace":
        """Read a trace.

        Raises:
            TraceError: missing, not a trace, damaged, or of an unknown version.
        """
        try:
            # Given a path to something else than an archive, np.load would leave the file open.
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                header = str(file["header"][()])
                arrays = {name: file[name].astype(np.int64) for name in _ARRAYS}
        except FileNotFoundError:
            raise TraceError(f"{path}: no such file; record one with --trace") from None
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, str(error)) from error
        except (IndexError, zipfile.BadZipFile, zlib.error) as error:
            raise _damaged(path, str(error)) from error
        geometry = _read_header(path, header)
        _check(path, geometry, arrays)
        ends = np.cumsum(arrays["counts"])
        groups = np.split(arrays["experts"], ends[:-1]) if len(ends) else []
        visits = map(
            RoutingVisit,
            arrays["passes"].tolist(),
            arrays["layers"].tolist(),
            (group.tolist() for group in groups),
        )
        return cls(geometry, list(visits))


def _damaged(path: str | os.PathLike[str], why: str) -> TraceError:
    return TraceError(f"{path}: not a trace, or damaged: {why}; record it again with --trace")


def _read_header(path: str | os.PathLike[str], text: str) -> PackGeometry:
    try:
        kind = msgspec.json.decode(text, type=_Kind)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header: {error}") from error
    if kind.format != _FORMAT:
        raise _damaged(path, f"the header does not say {_FORMAT!r}")
    if kind.version != _VERSION:
        raise TraceError(f"{path}: trace version {kind.version!r}, this program reads {_VERSION}")
    try:
        found = msgspec.json.decode(text, type=_Header)
    except ValueError as error:
        raise _damaged(path, f"its header: {error}") from error
    numbers = msgspec.structs.asdict(found)
    return PackGeometry(manifest_sha256=numbers.pop("pack"), **numbers)


def _check(
    path: str | os.PathLike[str], geometry: PackGeometry, arrays: dict[str, NDArray[np.int64]]
) -> None:
    passes, layers, counts, experts = (arrays[name] for name in _ARRAYS)
    if not all(a.ndim == 1 for a in (passes, layers, counts, experts)):
        raise _damaged(path, "its arrays must have one dimension")
    if not len(passes) == len(layers) == len(counts) or len(experts) != counts.sum():
        raise _damaged(path, "the lengths of its arrays do not match")
    inside = (
        np.all((layers >= 0) & (layers < geometry.num_layers))
        and np.all((experts >= 0) & (experts < geometry.num_experts))
        and np.all((counts > 0) & (counts <= geometry.num_experts))
    )
    if not inside or np.any(np.diff(passes) < 0):
        raise _damaged(path, "a pass, layer or expert is out of range")


@contextmanager
def recording(
    record: Callable[[bool], None], trace: Callable[[], Trace], path: Path | None
) -> Iterator[None]:
    """Write what is recorded inside to `path`; None records nothing. See `LLM.recording`.

    Args:
        record: begins or ends to record.
        trace: what was recorded.
        path: the file.
    """
    if path is None:
        yield
        return
    if not path.parent.is_dir():
        raise TraceError(f"{path}: there is no folder {path.parent} to write the trace into")
    record(True)
    try:
        yield
        trace().save(path)
    finally:
        record(False)
