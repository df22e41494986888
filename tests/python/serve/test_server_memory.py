# SPDX-License-Identifier: Apache-2.0
"""What a server takes besides its ceiling stays below what `plan` counts for it."""

import json
from pathlib import Path

import pytest

from adapmoe.machine.pressure import MOST_BELOW_LIMIT
from adapmoe.planning.service_memory import SERVER_BYTES
from benchmarks.cgroup import V1
from benchmarks.serve_memory import bodies, measure

LIMIT = V1 / "memory.limit_in_bytes"


@pytest.mark.slow
@pytest.mark.memory
@pytest.mark.root
@pytest.mark.skipif(not LIMIT.exists(), reason=f"{V1}: no memory controller of cgroup v1")
def test_a_server_fits_into_the_limit_of_its_unit(pack_factory):
    found = measure(Path(pack_factory()), memory=64 << 20, seconds=1.0)
    assert found["killed"] == 0
    for phase in found["phases"]:
        print(f"{phase['phase']}: {phase['outside'] >> 20} MiB, {phase['statuses']}")
        assert phase["outside"] + phase["kernel"] <= SERVER_BYTES - MOST_BELOW_LIMIT
    assert max(phase["outside"] for phase in found["phases"]) > 200 << 20  # bodies were large


@pytest.mark.slow
def test_the_bodies_are_what_they_should_be():
    for name, (path, body) in bodies("m").items():
        assert path.startswith("/v1/"), name
        assert len(body) < 8 << 20
        assert json.loads(body)["model"] == "m"
