# SPDX-License-Identifier: Apache-2.0
"""The fuzzers' kept inputs, through the Python API: a typed error and nothing else.

The fuzzers themselves need clang (`make fuzz`); this runs everywhere.
"""

import shutil
from pathlib import Path

import pytest

from adapmoe import _core
from adapmoe.errors import PackError
from support.packs.manifest_edit import edit_manifest, sign

CORPUS = Path(__file__).parent / "corpus"


def inputs(kind):
    files = sorted((CORPUS / kind).iterdir())
    assert files
    return [pytest.param(path, id=path.name[:8]) for path in files]


def refusal(pack: Path) -> str:
    with pytest.raises(PackError) as error:
        _core.inspect_pack(str(pack))
    message = str(error.value)
    assert message.startswith(str(pack))
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("path", inputs("manifest"))
def test_manifest(path, tmp_path):
    # As the fuzzer does: an input lacks the checksum's line, which random changes never hit.
    for text in (path.read_bytes(), sign(path.read_bytes())):
        (tmp_path / "manifest.json").write_bytes(text)
        refusal(tmp_path)  # an accepted manifest lacks its files


def test_some_manifests_are_accepted(tmp_path):
    accepted = 0
    for path in sorted((CORPUS / "manifest").iterdir()):
        (tmp_path / "manifest.json").write_bytes(sign(path.read_bytes()))
        accepted += ".safetensors: cannot open" in refusal(tmp_path)
    assert accepted  # or the corpus no longer fits the format


@pytest.mark.parametrize("path", inputs("safetensors"))
def test_safetensors_header(path, pack_factory, tmp_path):
    pack = tmp_path / "copy.adapmoe"
    shutil.copytree(pack_factory(), pack)
    (pack / "dense.safetensors").write_bytes(path.read_bytes())

    def claim_its_size(manifest):
        manifest["files"]["dense.safetensors"]["bytes"] = path.stat().st_size

    edit_manifest(pack, claim_its_size)
    assert "dense.safetensors" in refusal(pack)
