# SPDX-License-Identifier: Apache-2.0
"""Plans for tests/tensorrt_emulation/adapter.cc, recorded as `adapmoe build-engines` does."""

import hashlib
import json
import os
import shutil

import numpy as np

from adapmoe.pack.weights import ExpertReader
from adapmoe.tensorrt.records import FOLDER, EngineRecord, make_tag, plan_file, write_records
from support.source.source_tree import ROOT

TARGET = "sm_00"  # of the emulated GPU
DEVICE = {"name": "emulated", "multiprocessors": 1}
VERSIONS = {10: "10.3.0", 11: "11.3.0"}  # of the stand-ins for libnvinfer
# Options of adapmoe-tokens.
ENGINES = ("--backend", "cuda", "--experts", "tensorrt", "--exact", "no", "--threads", 1)


def library(*majors):
    """The environment of a machine with these major versions of TensorRT."""
    folders = (ROOT / "build/emulated/tensorrt" / str(major) for major in majors)
    return {"LD_LIBRARY_PATH": ":".join(map(str, folders))}


def dense(matrix):
    """An ExpertMatrix as float32 [rows, cols]."""
    weights = matrix.quants.astype(np.float32)
    if matrix.scales is not None:
        group = weights.shape[1] // matrix.scales.shape[1]
        weights *= np.repeat(matrix.scales.astype(np.float32), group, axis=1)
    return weights


def plan_bytes(reader, layer, expert, major, padding=0):
    weights = reader.read(layer, expert)
    gate, up = dense(weights.gate_proj), dense(weights.up_proj)
    down = dense(weights.down_proj)
    head = np.array([major, gate.shape[1], gate.shape[0]], np.uint32)
    parts = (b"standin\n", head.tobytes(), gate.tobytes(), up.tobytes(), down.tobytes())
    return b"".join(parts) + bytes(padding)


def record(layer, expert, data, version, target=TARGET):
    return EngineRecord(
        layer=layer,
        expert=expert,
        file=plan_file(layer, expert),
        library="tensorrt",
        version=version,
        targets=(target,),
        flags=(),
        onnx_sha256="0" * 64,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        seconds=0.0,
        peak_rss_bytes=0,
    )


def copy_pack(pack, folder):
    """The same pack with room for sidecars of its own; the weights are linked."""
    copy = folder / pack.name
    copy.mkdir()
    for path in pack.iterdir():
        if path.is_file():
            os.link(path, copy / path.name)
    return copy


def write_engines(pack, major=10, target=TARGET):
    """A plan for every expert of `pack`; returns the folder."""
    folder = pack / FOLDER / make_tag("tensorrt", [target])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    reader = ExpertReader(pack)
    records = []
    for layer, expert in reader.manifest.expert_ids:
        # Sizes differ, and are no multiples of a page.
        data = plan_bytes(reader, layer, expert, major, padding=layer + 3 * expert)
        (folder / plan_file(layer, expert)).write_bytes(data)
        records.append(record(layer, expert, data, VERSIONS[major], target))
    write_records(pack, folder.name, records)
    return folder


def change_list(folder, change):
    """Write engines.json with what `change` does to its content."""
    path = folder / "engines.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def set_all(**fields):
    """For change_list."""

    def change(found):
        for engine in found["engines"]:
            engine.update(fields)

    return change


def flip_bit(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
