# SPDX-License-Identifier: Apache-2.0
"""What TensorRT engines need: SHA-256, device memory, staged files."""

import hashlib

import numpy as np
import pytest

from adapmoe import _testing


@pytest.mark.parametrize("size", [*range(130), 1000, 4096, 100_003])
def test_sha256(size):
    data = np.random.default_rng(size).bytes(size)
    expected = hashlib.sha256(data).hexdigest()
    assert _testing.sha256(data) == _testing.sha256_portable(data) == expected


def test_memory_is_handed_out_in_order_and_aligned():
    memory = _testing.EngineMemory(4096)
    assert memory.allocate(100, 256) == 0
    assert memory.allocate(10, 1) == 100
    assert memory.allocate(256, 256) == 256
    assert memory.wanted == 512


def test_memory_that_is_not_there_is_refused_and_said():
    memory = _testing.EngineMemory(4096)
    assert memory.allocate(4097, 1) is None
    assert memory.wanted == 4097
    assert memory.allocate(4096, 4096) == 0
    assert memory.allocate(1, 1) is None
    assert memory.allocate((1 << 63) - 1, 1) is None


@pytest.mark.parametrize(("alignment", "offset"), [(0, 100), (1, 100), (2, 100), (256, 256)])
def test_an_alignment_is_a_power_of_two_or_zero_for_any(alignment, offset):
    memory = _testing.EngineMemory(4096)
    assert memory.allocate(100, 0) == 0
    assert memory.allocate(10, alignment) == offset
    assert memory.wanted == offset + 10


def test_released_memory_is_not_handed_out_before_the_next_engine():
    """Work that is queued may still use it."""
    memory = _testing.EngineMemory(1024)
    assert memory.allocate(512, 256) == 0
    memory.release(0)
    assert memory.allocate(512, 256) == 512
    memory.release(512)
    assert memory.allocate(1, 1) is None
    assert memory.wanted == 1025
    memory.reset(2048)
    assert memory.wanted == 0
    assert memory.allocate(2048, 256) == 0


@pytest.mark.parametrize("places", [1, 2, 5])
@pytest.mark.parametrize("reader", ["pread", "io_uring"])
def test_staged_files_are_read_whole_and_placed(tmp_path, reader, places):
    rng = np.random.default_rng(places)
    sizes = [1, 4095, 4096, 4097, 12288, 100_001, 3, 8192]
    contents = [b"." + rng.bytes(size - 1) for size in sizes]
    contents[3] = b"!" + contents[3][1:]
    paths = []
    for index, content in enumerate(contents):
        paths.append(str(tmp_path / str(index)))
        (tmp_path / str(index)).write_bytes(content)
    found = _testing.read_file_records(paths, reader, places)
    for index, (data, error) in enumerate(found):
        assert error == ("refused" if index == 3 else "")
        assert data == (bytes(sizes[3]) if index == 3 else contents[index])
