# SPDX-License-Identifier: Apache-2.0
"""Packs with ONNX models, and the stand-in for TensorRT where this process and workers find it."""

import importlib
import os
import sys
from pathlib import Path

from adapmoe_export import export_pack
from support.models.checkpoints import make_config, make_tensors, write_checkpoint

TESTS = Path(__file__).resolve().parents[2]


def make_engine_pack(folder: Path, **options) -> Path:
    """2 layers x 4 experts, hidden_size 64, with ONNX models."""
    from adapmoe_export.onnx_export import export_onnx

    config = make_config()
    checkpoint = write_checkpoint(folder / "checkpoint", config, make_tensors(config))
    export_pack(checkpoint, folder / "small.adapmoe", **options)
    export_onnx(folder / "small.adapmoe")
    return folder / "small.adapmoe"


class FakeTensorRt:
    """Installs support.tensorrt.fake_tensorrt under the names of the libraries."""

    def __init__(self, folder: Path, patch):
        self._folder, self._patch = folder, patch
        for name in ("tensorrt", "tensorrt_rtx"):
            fake = "from support.tensorrt.fake_tensorrt import"
            (folder / f"{name}.py").write_text(f"{fake} *\n{fake} __version__\n")
        patch.syspath_prepend(folder)
        path = os.pathsep.join([str(folder), str(TESTS), os.environ.get("PYTHONPATH", "")])
        patch.setenv("PYTHONPATH", path)
        self.set_version("1.0")

    def set_version(self, version: str) -> None:
        self._patch.setenv("FAKE_TENSORRT_VERSION", version)
        for name in ("tensorrt", "tensorrt_rtx", "support.tensorrt.fake_tensorrt"):
            self._patch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    def misbehave(self, how: str) -> None:
        """Such as "crash:layer0-expert1"; "": behave."""
        self._patch.setenv("FAKE_TENSORRT", how)

    def remove(self, name: str) -> None:
        (self._folder / f"{name}.py").unlink()
        self._patch.setitem(sys.modules, name, None)
