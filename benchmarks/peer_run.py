# SPDX-License-Identifier: Apache-2.0
"""Run as a program by the pairing, in the peer's environment: llama.cpp's side of it.

The job comes in stdin; see timed_run. Its own fields: `gguf`, and `repack`, whether weights are
rearranged for the kernels while loading (which takes them out of the mapped file).
"""

import ctypes
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp._ggml import libggml_base_path

from benchmarks import timed_run

_MMAP = 1  # LLAMA_LOAD_MODE_MMAP
_PREFILL_BATCH = 512  # llama.cpp's own default


class TensorHead(ctypes.Structure):
    """How llama.cpp's struct for a tensor begins."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
    )


class RoutingRecorder:
    """Hears of every tensor that is computed and keeps the experts of each layer."""

    PREFIX = "ffn_moe_topk-"

    def __init__(self) -> None:
        base = ctypes.CDLL(str(libggml_base_path / "libggml-base.so"))
        self._name, self._get, self._nbytes = (
            base.ggml_get_name,
            base.ggml_backend_tensor_get,
            base.ggml_nbytes,
        )
        self._name.argtypes, self._name.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._nbytes.argtypes, self._nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
        self._get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._get.restype = None
        self.chosen: list[tuple[int, np.ndarray]] = []  # layer, experts [tokens, top_k]
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._heard)

    def _heard(self, tensor: int, ask: bool, _: object) -> bool:
        name = self._name(tensor).decode()
        if not name.startswith(self.PREFIX):
            return not ask  # no to "do you want it?", yes to "go on?"
        if not ask:
            self.chosen.append((int(name.removeprefix(self.PREFIX)), self._rows(tensor)))
        return True

    def _rows(self, tensor: int) -> np.ndarray:
        head = TensorHead.from_address(tensor)
        data = np.empty(self._nbytes(tensor), np.uint8)
        self._get(tensor, data.ctypes.data, 0, data.nbytes)
        top_k, tokens, stride = head.ne[0], head.ne[1], head.nb[1]
        rows = [data[row * stride :][: 4 * top_k].view(np.int32) for row in range(tokens)]
        return np.sort(np.array(rows), axis=1)


class PeerEngine:
    """One context of llama.cpp, driven through its C interface."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._log: list[str] = []
        self._on_log = llama_cpp.llama_log_callback(self._keep)
        llama_cpp.llama_log_set(self._on_log, None)
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        params.load_mode = _MMAP
        params.use_extra_bufts = job["repack"]
        self._model = llama_cpp.llama_model_load_from_file(job["gguf"].encode(), params)
        self._recorder = RoutingRecorder() if job["task"] == "agreement" else None
        self._context = self._model and self._open_context(job)
        if not self._context:
            raise SystemExit("llama.cpp did not open the model:\n" + "".join(self._log[-20:]))
        self._memory = llama_cpp.llama_get_memory(self._context)
        vocab = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocab)

    def _open_context(self, job: dict[str, Any]) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = job["context"]
        params.n_batch = params.n_ubatch = _PREFILL_BATCH
        params.n_threads = params.n_threads_batch = job["threads"]
        if self._recorder is not None:
            params.cb_eval = self._recorder.callback
        return llama_cpp.llama_init_from_model(self._model, params)

    def _keep(self, level: int, text: bytes, _: object) -> None:
        self._log.append(text.decode(errors="replace"))

    def prefill(self, ids: list[int]) -> np.ndarray:
        for begin in range(0, len(ids), _PREFILL_BATCH):
            self._feed(ids[begin : begin + _PREFILL_BATCH])
        return self._logits()

    def decode(self, token_id: int) -> np.ndarray:
        self._feed([token_id])
        return self._logits()

    def _feed(self, ids: list[int]) -> None:
        tokens = (llama_cpp.llama_token * len(ids))(*ids)
        # Positions go on by themselves, and the last token gives logits.
        batch = llama_cpp.llama_batch_get_one(tokens, len(ids))
        code = llama_cpp.llama_decode(self._context, batch)
        if code:
            raise SystemExit(f"llama_decode: {code}\n" + "".join(self._log[-20:]))

    def _logits(self) -> np.ndarray:
        row = llama_cpp.llama_get_logits_ith(self._context, -1)
        return np.ctypeslib.as_array(row, (self._vocab_size,)).copy()

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)

    def begin(self) -> None:
        """Nothing is counted in there."""

    def routing(self) -> np.ndarray:
        assert self._recorder is not None
        layers = 1 + max(layer for layer, _ in self._recorder.chosen)
        experts = np.concatenate([chosen for _, chosen in self._recorder.chosen])
        return experts.reshape(-1, layers, experts.shape[1])

    def facts(self) -> dict[str, Any]:
        return {
            "backend": llama_cpp.llama_print_system_info().decode(),
            "buffers": [line.strip() for line in self._log if "buffer size" in line],
        }


if __name__ == "__main__":
    timed_run.main(PeerEngine)
