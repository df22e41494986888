# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

import re
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from support.source.tools import require_gpu

# The same examples in every run; --hypothesis-profile=default draws new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

TESTS = Path(__file__).resolve().parent

# Started in the background of a script, pytest and the programs that it starts would ignore
# interrupts, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Tests that need a GPU run only where `-m` names them; there they fail rather than skip."""
    if "gpu" in re.findall(r"\w+", config.option.markexpr):
        return
    left_out = [item for item in items if item.get_closest_marker("gpu")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("emulated", marks=pytest.mark.emulated),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
def gpu_build(request):
    """The build to test GPU kernels with: on the CPU or, where `-m gpu` asks for it, on a GPU."""
    if request.param == "cuda":
        require_gpu()
    return request.param


@pytest.fixture(scope="session", autouse=True)
def no_warm_restart(tmp_path_factory):
    """A file where resident sets would be kept: no test warms another, or writes into HOME."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "adapmoe").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield


@pytest.fixture(scope="session", autouse=True)
def wide_terminal():
    """Tables and messages break no line, however long the path of a test's folder is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "240")
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint():
    """The trained 8-layer Mixtral in Hugging Face layout."""
    return TESTS / "models" / "tiny-mixtral"


@pytest.fixture(scope="session")
def pack_factory(tiny_checkpoint, tmp_path_factory):
    """Packs of the tiny checkpoint: a function from export options to a path.

    Each combination of options is exported once per session; do not change what is in a pack.
    """
    packs = {}

    def make(experts="int4", dense="int8", group_size=32, tile_width=None):
        from adapmoe_export import export_pack

        options = (experts, dense, group_size, tile_width)
        if options not in packs:
            name = "-".join(str(option) for option in options)
            pack = tmp_path_factory.mktemp("packs") / f"{name}.adapmoe"
            export_pack(
                tiny_checkpoint,
                pack,
                experts=experts,
                dense=dense,
                group_size=group_size,
                tile_width=tile_width,
            )
            packs[options] = pack
        return packs[options]

    return make
