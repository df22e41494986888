# SPDX-License-Identifier: Apache-2.0
"""Speed and peak memory of an export, at a third of the size of the benchmark's checkpoint."""

import pytest

from benchmarks.export_speed import measure
from support.models.big_checkpoint import big_config


@pytest.mark.slow
@pytest.mark.memory
@pytest.mark.parametrize("dtype", ["int4", "f32"])
def test_export_stays_within_its_memory(tmp_path, capsys, dtype):
    report = measure(big_config(4096, 14336, 1, 3), tmp_path, experts=dtype)
    with capsys.disabled():
        print(
            f"\nexport to {dtype}: {report['weights_per_s'] / 1e6:.0f} million weights/s, "
            f"peak {report['peak_rss_bytes'] / 1e6:.0f} MB, "
            f"limit {report['peak_rss_limit_bytes'] / 1e6:.0f} MB"
        )
    assert report["peak_rss_bytes"] < report["peak_rss_limit_bytes"]
