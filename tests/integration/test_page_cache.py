# SPDX-License-Identifier: Apache-2.0
"""In a container the page cache fills up to the limit: memory="auto" must not count it as used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cgroup import CachedPages, CgroupUnavailable, drop_from_page_cache, memory_cgroup
from support.packs.large_pack import make_large_pack

PROBE = Path(__file__).resolve().parents[1] / "support" / "machine" / "page_cache_probe.py"
MIB = 1 << 20
LIMIT = 180 * MIB  # all experts and what is dense do not fit below it


@pytest.mark.memory
@pytest.mark.root
def test_reading_files_costs_no_memory_and_the_ceiling_can_be_used(tmp_path):
    pack, large = make_large_pack(tmp_path), tmp_path / "large"
    with large.open("wb") as file:
        for _ in range(2 * LIMIT // MIB):
            file.write(bytes(MIB))
    try:
        drop_from_page_cache([large, *(entry for entry in pack.iterdir() if entry.is_file())])
        with memory_cgroup(LIMIT) as group:
            command = group.command([sys.executable, str(PROBE), str(pack), str(large)])
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            kills = (group.folder / "memory.oom_control").read_text()
    except (CgroupUnavailable, CachedPages) as error:
        pytest.skip(str(error))
    assert done.returncode == 0, (done.returncode, done.stderr)
    found = json.loads(done.stdout)
    print(found)
    for moment in ("read again", "full", "in the end"):
        assert found[moment] > found["empty"] - 5, moment
    for moment in ("shared memory", "locked"):  # 40 MiB that the kernel cannot take back
        assert found["empty"] - 50 < found[moment] < found["empty"] - 35, moment
    assert found["ceiling"] > 0.75 * found["empty"]
    assert found["reserved"] < found["everything"]  # or there would be nothing to be stopped by
    assert found["grown"] > 0.95 * found["reserved"]
    assert "is more than this process may take" in found["refusal"]
    assert "oom_kill 0" in kills
