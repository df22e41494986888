# SPDX-License-Identifier: Apache-2.0
"""The checksums of a pack against an independent CRC-32C, and what a wrong one is worth."""

import json
import re
import shutil

import numpy as np
import pytest

from adapmoe import _core
from adapmoe.errors import PackError
from adapmoe_export.manifest import CHECKSUM, join_checksums
from support.packs.manifest_edit import edit_manifest
from support.packs.pack_reader import read_manifest
from support.packs.packed_reference import crc32c


@pytest.fixture
def pack(pack_factory, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(pack_factory(), tmp_path / "copy.adapmoe")


def test_dense_tensors_have_theirs(pack):
    dense = read_manifest(pack)["dense"]
    data = (pack / dense["file"]).read_bytes()[dense["data_offset"] :]
    for place in dense["tensors"].values():
        tensor = data[place["offset"] : place["offset"] + place["bytes"]]
        assert place["crc32c"] == f"{_core.crc32c(np.frombuffer(tensor, np.uint8)):08x}"
    norm = dense["tensors"]["model.norm.weight"]
    assert norm["crc32c"] == f"{crc32c(data[norm['offset'] :][: norm['bytes']]):08x}"


def test_pieces_join():
    data = np.random.default_rng(1).integers(0, 256, 5000, np.uint8)
    for cuts in ([], [1], [4096], [0, 7, 4999]):
        parts = np.split(data, cuts)
        assert join_checksums((p.size, _core.crc32c(p)) for p in parts) == crc32c(data.tobytes())
        whole = 0
        for part in parts:
            whole = _core.crc32c(part, whole)
        assert whole == crc32c(data.tobytes())


def test_the_manifest_signs_itself(pack):
    text = (pack / "manifest.json").read_bytes()
    line = re.search(rb'  "~crc32c": "([0-9a-f]{8})"\n}\n\Z', text)
    assert int(line[1], 16) == crc32c(text[: line.start()])
    assert max(json.loads(text)) == CHECKSUM  # it sorts last
    edit_manifest(pack, lambda manifest: None)
    assert (pack / "manifest.json").read_bytes() == text  # both writers agree


@pytest.mark.parametrize(
    "edit", [("1e-05", "2e-05"), ('sliding_window": null', 'sliding_window": 7'), ("BF", "bf")]
)
def test_an_edited_manifest_is_refused(pack, edit):
    path = pack / "manifest.json"
    text = path.read_text()
    assert edit[0] in text
    path.write_text(text.replace(*edit, 1))
    with pytest.raises(PackError, match=r"manifest.json: ~crc32c.*copy the pack again"):
        _core.inspect_pack(str(pack))
