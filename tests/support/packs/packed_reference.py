# SPDX-License-Identifier: Apache-2.0
"""The packed matrix of export/FORMAT.md read back with NumPy, sharing no code with the core."""

import numpy as np


def _up(value: int, multiple: int) -> int:
    return (value + multiple - 1) // multiple * multiple


def block_bytes(cols_padded: int, dtype: str, group_size: int) -> int:
    scales = _up(32 * (cols_padded // group_size), 64)
    return {
        "int4": scales + 8 * cols_padded,
        "int8": scales + 16 * cols_padded,
        "f16": 32 * cols_padded,
        "f32": 64 * cols_padded,
    }[dtype]


def unpack_padded(
    data: np.ndarray, rows: int, cols: int, dtype: str, group_size: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Values [rows_padded, cols_padded] float32; for int dtypes also scales [rows_padded, groups]
    float32 and quants [rows_padded, cols_padded] int8."""
    rows_padded, cols_padded = _up(rows, 16), _up(cols, group_size)
    blocks = np.asarray(data, np.uint8).reshape(rows_padded // 16, -1)
    assert blocks.shape[1] == block_bytes(cols_padded, dtype, group_size)
    if dtype in ("f16", "f32"):
        values = np.ascontiguousarray(blocks).view(np.float16 if dtype == "f16" else np.float32)
        values = values.reshape(-1, cols_padded, 16).transpose(0, 2, 1)
        return values.reshape(rows_padded, cols_padded).astype(np.float32), None, None

    groups = cols_padded // group_size
    scale_end = _up(32 * groups, 64)
    assert not blocks[:, 32 * groups : scale_end].any()
    scales = np.ascontiguousarray(blocks[:, : 32 * groups]).view(np.float16)
    scales = scales.reshape(-1, groups, 16).transpose(0, 2, 1).reshape(rows_padded, groups)
    scales = scales.astype(np.float32)
    words = blocks[:, scale_end:]
    if dtype == "int4":
        words = words.reshape(-1, cols_padded // 8, 16, 4)
        nibbles = np.stack([words & 15, words >> 4], axis=3)  # [block, word, row, half, byte]
        quants = nibbles.astype(np.int8) - 8
        quants = quants.transpose(0, 2, 1, 3, 4)
    else:
        words = np.ascontiguousarray(words).view(np.int8).reshape(-1, cols_padded // 4, 16, 4)
        quants = words.transpose(0, 2, 1, 3)
    quants = quants.reshape(rows_padded, cols_padded)
    values = quants.astype(np.float32) * np.repeat(scales, group_size, axis=1)
    return values, scales, quants


def unpack(data: np.ndarray, rows: int, cols: int, dtype: str, group_size: int) -> np.ndarray:
    """The weights [rows, cols], float32."""
    return unpack_padded(data, rows, cols, dtype, group_size)[0][:rows, :cols]


def crc32c(data: bytes) -> int:
    """Castagnoli, bit by bit with a table: slow and plain."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF
