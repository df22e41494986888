# SPDX-License-Identifier: Apache-2.0
"""Which processor computes an expert whose tiles still arrive, by the measured cost of a tile."""

import pytest

from adapmoe import _testing


@pytest.mark.parametrize(
    ("cpu", "gpu", "busy", "cpu_takes_it"),
    [
        (0.0, 0.0, 4, False),  # nothing is known: the GPU first,
        (0.0, 2.0, 4, True),  # then the CPU
        (5.0, 2.0, 4, False),  # 20 s against (4 + 4) * 2 s
        (3.9, 2.0, 4, True),
        (3.9, 2.0, 0, False),  # an idle GPU does it in 8 s
        (1.9, 2.0, 0, True),
        (4.0, 2.0, 4, False),  # a draw stays with the GPU
    ],
)
def test_the_sooner_one_takes_four_tiles(cpu, gpu, busy, cpu_takes_it):
    assert _testing.cpu_is_sooner(cpu, gpu, busy, 4) == cpu_takes_it
