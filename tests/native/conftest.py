# SPDX-License-Identifier: Apache-2.0
"""A small pack for the tests of residency."""

from types import SimpleNamespace

import pytest

from adapmoe import _testing
from support.packs.small_pack import TILE_BYTES, write_small_pack

LAYERS, EXPERTS, TILES = 3, 4, 3


@pytest.fixture(scope="session")
def small_pack(tmp_path_factory):
    """3 layers x 4 experts x 3 tiles. Do not change its files."""
    folder = tmp_path_factory.mktemp("packs") / "small.adapmoe"
    data = write_small_pack(folder, LAYERS, EXPERTS, TILES)
    return SimpleNamespace(
        folder=folder,
        path=str(folder),
        data=data,
        layers=LAYERS,
        experts=EXPERTS,
        tiles=TILES,
        tile_bytes=TILE_BYTES,
    )


@pytest.fixture
def make_rig(small_pack):
    def make(frames, **options):
        return _testing.CacheRig(small_pack.path, frames, **options)

    return make
