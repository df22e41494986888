# SPDX-License-Identifier: Apache-2.0
"""Safetensors files with odd headers or weights, and a manifest that agrees with them.

Functions return `mutate(pack, rng, bases)`, as in pack_damage.py.
"""

import json
import struct

import numpy as np

from adapmoe import _core
from support.packs.manifest_edit import edit_manifest, signed_text


def update_size(pack, file):
    size = (pack / file).stat().st_size
    edit_manifest(pack, lambda manifest: manifest["files"][file].update(bytes=size))


def forge_header(file, change):
    """`change(header)` edits or replaces the header; data stay where they were if it fits."""

    def mutate(pack, rng, bases):
        data = (pack / file).read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        text = change(header, rng)
        text = (json.dumps(header) if text is None else text).encode("utf-8", "surrogatepass")
        text = text.ljust(length)
        (pack / file).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        update_size(pack, file)

    return mutate


def set_offsets(value):
    def change(header, rng):
        header[rng.choice(sorted(header))]["data_offsets"] = value

    return change


def drop_tensor(header, rng):
    del header[rng.choice(sorted(header))]


def rename_tensor(header, rng):
    header["../../etc/passwd"] = header.pop(rng.choice(sorted(header)))


def set_tensor(value):
    def change(header, rng):
        header[rng.choice(sorted(header))] = value

    return change


HEADER_CHANGES = {
    "drop": drop_tensor,
    "rename": rename_tensor,
    "metadata": lambda header, rng: header.update(__metadata__={"x": "y"}),
    "deep": lambda header, rng: '{"a":' * 10**5,
    "wide": lambda header, rng: "[" + "[]," * 10**6 + "[]]",
    "twice": lambda header, rng: '{"a": 1, "a": 2}',
    "list": lambda header, rng: "[]",
    "not JSON": lambda header, rng: "{'a': 1}",
    "not UTF-8": lambda header, rng: '{"\ud800": 1}',
    "empty": lambda header, rng: "{}",
    **{f"tensor {value!r:.20}": set_tensor(value) for value in (None, 1, "x", [], {})},
    **{
        f"offsets {value!r:.30}": set_offsets(value)
        for value in (
            None, [], [0], [0, 1, 2], [1, 0], [-1, 64], [0, 2**63], [2**63, 2**64 - 1], [0, 2**64],
            [0.0, 64.0], ["0", "64"], [0, 1e300], {"begin": 0}, [[0], [64]], [0, 0],
        )
    },
}  # fmt: skip


def forge_longer(file):
    """More data than the tensors describe, and a manifest that agrees with the size."""

    def mutate(pack, rng, bases):
        with (pack / file).open("ab") as opened:
            opened.write(bytes(rng.choice([1, 64, 4096, 1 << 20])))
        update_size(pack, file)

    return mutate


def crc(data):
    return f"{_core.crc32c(np.frombuffer(data, np.uint8)):08x}"


def forge_dense(pack, name, change):
    """`change(values)` edits the f32 values of one dense tensor in place, padding included."""
    manifest = json.loads((pack / "manifest.json").read_text())
    dense = manifest["dense"]
    place = dense["tensors"][name]
    data = bytearray((pack / dense["file"]).read_bytes())
    begin = dense["data_offset"] + place["offset"]
    change(np.frombuffer(data, np.float32, place["bytes"] // 4, begin))
    place["crc32c"] = crc(bytes(data[begin : begin + place["bytes"]]))
    (pack / dense["file"]).write_bytes(data)
    (pack / "manifest.json").write_bytes(signed_text(manifest))


def forge_experts(pack, layer, value):
    """All weights of the f32 experts of one layer are `value`."""
    manifest = json.loads((pack / "manifest.json").read_text())
    experts = manifest["experts"]
    count, step = manifest["config"]["num_local_experts"], experts["tile_bytes"]
    tile = np.full(step // 4, value, np.float32).tobytes()
    begin = experts["data_offset"] + layer * count * experts["tiles"] * step
    with (pack / experts["file"]).open("r+b") as file:
        file.seek(begin)
        file.write(tile * (count * experts["tiles"]))
    for expert in range(layer * count, (layer + 1) * count):
        experts["crc32c"][expert] = crc(tile) * experts["tiles"]
    (pack / "manifest.json").write_bytes(signed_text(manifest))


def forge_data(fill):
    """All weights, or all of one dense tensor, are hostile values with right checksums."""

    def mutate(pack, rng, bases):
        manifest = json.loads((pack / "manifest.json").read_text())
        noise = np.random.default_rng(rng.randrange(2**32))
        dense, experts = manifest["dense"], manifest["experts"]
        only = rng.choice([None, *sorted(dense["tensors"])])
        data = bytearray((pack / dense["file"]).read_bytes())
        for name, place in dense["tensors"].items():
            begin = dense["data_offset"] + place["offset"]
            if only in (None, name):
                data[begin : begin + place["bytes"]] = fill(place["bytes"], noise)
            place["crc32c"] = crc(bytes(data[begin : begin + place["bytes"]]))
        (pack / dense["file"]).write_bytes(data)
        if only is None:
            data = bytearray((pack / experts["file"]).read_bytes())
            step, begin = experts["tile_bytes"], experts["data_offset"]
            data[begin:] = fill(len(data) - begin, noise)
            tiles = [crc(bytes(data[i : i + step])) for i in range(begin, len(data), step)]
            per = experts["tiles"]
            experts["crc32c"] = ["".join(tiles[i : i + per]) for i in range(0, len(tiles), per)]
            (pack / experts["file"]).write_bytes(data)
        (pack / "manifest.json").write_bytes(signed_text(manifest))

    return mutate


FILLS = {
    "noise": lambda n, noise: noise.bytes(n),
    "NaN": lambda n, noise: np.full(n // 4, np.nan, np.float32).tobytes(),
    "infinity": lambda n, noise: np.full(n // 4, -np.inf, np.float32).tobytes(),
    "large": lambda n, noise: np.full(n // 4, 3e38, np.float32).tobytes(),
    "subnormal": lambda n, noise: np.full(n // 4, 1e-45, np.float32).tobytes(),
    "ones": lambda n, noise: b"\xff" * n,
    "minus 128": lambda n, noise: b"\x80" * n,
    "zeros": lambda n, noise: bytes(n),
}
