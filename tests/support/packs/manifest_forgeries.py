# SPDX-License-Identifier: Apache-2.0
"""Manifests with a right checksum and contents that nobody should believe.

Functions return `mutate(pack, rng, bases)`, as in pack_damage.py.
"""

import json

from support.packs.manifest_edit import edit_manifest, sign
from support.packs.pack_damage import become

VALUES = [
    None, True, False, -1, 0, 1, 2, 3, 7, 16, 4096, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63,
    2**64, -(2**63), 1.5, -0.0, 1e300, float("nan"), float("inf"), "", "x", "softmax",
    "sigmoid", "f32", "../../etc/passwd", "/etc/passwd", "\x00", "\ud800",
    "\u00e9" * 300, [], {}, [[]], [1, 2],
    {"bytes": 1}, ["x"] * 1000,
]  # fmt: skip
NAMES = ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a/b", "./tokenizer.json", "x\x00y"]
NAMES += ["manifest.json", "n" * 300, "missing.json", "dense.safetensors/", "\u202etxt.exe"]


def leaves(value, path=()):
    """Paths of all values below `value`, containers too."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = list(enumerate(value))[:2]
    for key, child in items:
        yield from leaves(child, (*path, key))


def forge_field():
    """One field of the manifest, drawn at random, gets an odd value, disappears or appears."""

    def mutate(pack, rng, bases):
        def change(manifest):
            path = rng.choice([p for p in leaves(manifest) if p and p != ("~crc32c",)])
            holder = manifest
            for key in path[:-1]:
                holder = holder[key]
            how = rng.random()
            if how < 0.1:
                del holder[path[-1]]
            elif how < 0.2 and isinstance(holder, dict):
                holder[rng.choice(NAMES)] = rng.choice(VALUES)
            elif how < 0.5 and isinstance(holder[path[-1]], int):
                holder[path[-1]] += rng.choice([-4096, -64, -1, 1, 2, 64, 4096])
            else:
                holder[path[-1]] = rng.choice(VALUES)

        edit_manifest(pack, change)

    return mutate


def forge_name(name, place):
    def mutate(pack, rng, bases):
        def change(manifest):
            if place == "files":
                manifest["files"][name] = manifest["files"]["tokenizer.json"]
            else:
                manifest[place]["file"] = name

        edit_manifest(pack, change)

    return mutate


def unlist(file, kind):
    """The manifest no longer lists a file that still exists, perhaps as something else."""

    def mutate(pack, rng, bases):
        edit_manifest(pack, lambda manifest: manifest["files"].pop(file))
        if kind != "file":
            become(file, kind)(pack, rng, bases)

    return mutate


def raw_manifest(write):
    """`write(text)` gives new bytes for manifest.json from its text."""

    def mutate(pack, rng, bases):
        path = pack / "manifest.json"
        before, after = path.read_bytes(), write(path.read_text())
        assert after != before
        path.write_bytes(after)

    return mutate


def resign(body: str) -> bytes:
    return sign(body.encode("utf-8", "surrogatepass"))


def body_of(text):
    return text[: text.index('  "~crc32c"')]


def wide(element, text):
    count = (7 << 20) // (len(element) + 1)
    return resign(body_of(text) + '  "wide": [' + ",".join([element] * count) + "],\n")


RAW_TEXTS = {
    "duplicate key": lambda t: resign(body_of(t).replace('"tiles": 2', '"tiles": 2, "tiles": 1')),
    "duplicate top key": lambda t: resign(body_of(t) + '  "config": {},\n'),
    "second checksum": lambda t: sign(t.replace("\n}\n", ",\n").encode()),
    "deep lists": lambda t: resign(body_of(t) + '  "z": ' + "[" * 10**6 + "]" * 10**6 + ",\n"),
    "deep open lists": lambda t: resign(body_of(t) + '  "z": ' + "[" * 4 * 10**6),
    "deep objects": lambda t: resign(
        body_of(t) + '  "z": ' + '{"a":' * 10**5 + "1" + "}" * 10**5 + ",\n"
    ),
    "wide numbers": lambda t: wide("1", t),
    "wide lists": lambda t: wide("[]", t),
    "wide objects": lambda t: wide('{"a":1}', t),
    "wide strings": lambda t: wide('"0123456789abcdef0123"', t),
    "long string": lambda t: resign(body_of(t) + '  "z": "' + "x" * (7 << 20) + '",\n'),
    "too large": lambda t: t.encode() + b" " * (9 << 20),
    "huge number": lambda t: resign(body_of(t).replace('"head_dim": 16', '"head_dim": 1e999')),
    "long number": lambda t: resign(
        body_of(t).replace('"head_dim": 16', '"head_dim": ' + "9" * 9999)
    ),
    "NaN": lambda t: resign(body_of(t).replace('"head_dim": 16', '"head_dim": NaN')),
    "not UTF-8": lambda t: sign(body_of(t).encode().replace(b"mixtral", b"mix\xff\xferal")),
    "not UTF-8 key": lambda t: sign(body_of(t).encode() + b'  "\xc3\x28": 1,\n'),
    "NUL in key": lambda t: resign(body_of(t) + '  "a\\u0000b": 1,\n'),
    "raw NUL": lambda t: resign(body_of(t) + '  "a\x00b": 1,\n'),
    "long key": lambda t: resign(body_of(t) + '  "' + "k" * 100000 + '": 1,\n'),
    "byte order mark": lambda t: b"\xef\xbb\xbf" + t.encode(),
    "comment": lambda t: resign("/* */" + body_of(t)),
    "no checksum": lambda t: (body_of(t).rstrip(",\n") + "\n}\n").encode(),
    "wrong checksum": lambda t: (
        t.replace('"~crc32c": "', '"~crc32c": "0')[:-5].encode() + b'"\n}\n'
    ),
    "upper-case checksum": lambda t: (body_of(t) + t[len(body_of(t)) :].upper()).encode(),
    "CRLF": lambda t: t.replace("\n", "\r\n").encode(),
    "minified": lambda t: json.dumps(json.loads(t)).encode(),
    "trailing text": lambda t: t.encode() + b"{}",
    "a list": lambda t: b"[]",
    "null": lambda t: b"null",
    "a string": lambda t: b'"pack"',
    "spaces": lambda t: b" " * 4096,
    "unknown version": lambda t: resign(
        body_of(t).replace('"format_version": 1', '"format_version": 2')
    ),
    "required feature": lambda t: resign(
        body_of(t).replace('"requires": []', '"requires": ["telepathy"]')
    ),
    "other architecture": lambda t: resign(body_of(t).replace('"mixtral"', '"llama"')),
    "shared experts": lambda t: resign(
        body_of(t).replace('"shared_experts": 0', '"shared_experts": 1')
    ),
    "other score": lambda t: resign(body_of(t).replace('"softmax"', '"argmax"')),
}
