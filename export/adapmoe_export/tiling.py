# SPDX-License-Identifier: Apache-2.0
"""Cuts intermediate_size into tiles."""

from dataclasses import dataclass
from itertools import takewhile

from adapmoe import _core
from adapmoe_export.errors import ExportError

MAX_TILE_BYTES = 8 << 20
PAGE_BYTES = 4096


@dataclass(frozen=True)
class Tiling:
    """Geometry of every expert record. Widths are in columns of intermediate_size."""

    tiles: int
    tile_width: int
    tile_bytes: int

    @property
    def expert_bytes(self) -> int:
        """Bytes of one expert's record."""
        return self.tiles * self.tile_bytes


def align_up(value: int, alignment: int) -> int:
    """The smallest multiple of `alignment` that is at least `value`."""
    return -(-value // alignment) * alignment


def tile_bytes(tile_width: int, hidden_size: int, dtype: str, group_size: int) -> int:
    """Bytes of one tile: gate and up rows, down columns, padded to a page."""
    rows = _core.packed_bytes(tile_width, hidden_size, dtype, group_size)
    columns = _core.packed_bytes(hidden_size, tile_width, dtype, group_size)
    return align_up(2 * rows + columns, PAGE_BYTES)


def choose_tiling(
    intermediate_size: int, hidden_size: int, dtype: str, group_size: int, width: int | None = None
) -> Tiling:
    """The tiling with the given width, or else the widest tiles of at most 8 MiB.

    `group_size` is the pack's (16 for f16 and f32), a multiple of 16, so it is the unit of
    widths. Raises ExportError for a width that is not a multiple of it or wider than an expert.
    """
    unit = group_size
    padded = align_up(intermediate_size, unit)
    if width is None:
        width = _widest(intermediate_size, hidden_size, dtype, unit)
    elif width < unit or width % unit or width > padded:
        raise ExportError(f"tile width {width}: give a multiple of {unit}, at most {padded}")
    return Tiling(
        tiles=-(-intermediate_size // width),
        tile_width=width,
        tile_bytes=tile_bytes(width, hidden_size, dtype, unit),
    )


def _widest(intermediate_size: int, hidden_size: int, dtype: str, unit: int) -> int:
    # Tile bytes grow with the width. A hidden_size so large that not even one unit fits still gets
    # tiles of one unit.
    widths = range(unit, align_up(intermediate_size, unit) + 1, unit)
    fitting = [
        *takewhile(lambda w: tile_bytes(w, hidden_size, dtype, unit) <= MAX_TILE_BYTES, widths)
    ] or [unit]
    dividing = [width for width in fitting if intermediate_size % width == 0]
    if dividing:
        return dividing[-1]
    parts = -(-intermediate_size // fitting[-1])
    return align_up(-(-intermediate_size // parts), unit)
