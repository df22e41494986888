# SPDX-License-Identifier: Apache-2.0
import pytest

from adapmoe_export import ExportError
from adapmoe_export.plan import choose_tiling


@pytest.mark.parametrize(
    ("intermediate", "hidden", "dtype", "group", "tiles", "width", "tile_bytes"),
    [
        (14336, 4096, "int4", 32, 14, 1024, 7077888),  # Mixtral-8x7B: 6.75 MiB
        (14336, 4096, "int8", 32, 28, 512, 6684672),
        (14336, 4096, "f32", 16, 112, 128, 6291456),
        (256, 256, "int4", 32, 1, 256, 110592),
        (96, 64, "int4", 64, 1, 128, 16384),  # 64 does not divide 96: padded
        (1 << 14, 1 << 20, "f32", 16, 1024, 16, 201326592),  # not even one unit fits 8 MiB
    ],
)
def test_default_width(intermediate, hidden, dtype, group, tiles, width, tile_bytes):
    tiling = choose_tiling(intermediate, hidden, dtype, group)
    assert (tiling.tiles, tiling.tile_width, tiling.tile_bytes) == (tiles, width, tile_bytes)
    assert tiling.expert_bytes == tiles * tile_bytes


def test_intermediate_size_off_the_unit_is_split_evenly():
    tiling = choose_tiling(14336 + 8, 4096, "int4", 32)
    assert (tiling.tiles, tiling.tile_width) == (13, 1120)
    assert tiling.tile_bytes <= 8 << 20
    assert (tiling.tiles - 1) * tiling.tile_width < 14344 <= tiling.tiles * tiling.tile_width


def test_explicit_width():
    assert choose_tiling(256, 256, "int4", 32, 64).tiles == 4
    assert choose_tiling(256, 256, "int4", 32, 96).tiles == 3


@pytest.mark.parametrize("width", [0, -32, 16, 80, 288])
def test_bad_width_is_refused(width):
    with pytest.raises(ExportError, match="multiple of 32, at most 256"):
        choose_tiling(256, 256, "int4", 32, width)
