# SPDX-License-Identifier: Apache-2.0
"""What adapmoe calls of tensorrt and tensorrt_rtx. A plan is the JSON of all that was asked for.

FAKE_TENSORRT in the environment, "WHAT:PART OF A FILE NAME", makes it crash, refuse, take memory or
be slow; FAKE_TENSORRT_VERSION is its version.
"""

import enum
import hashlib
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

__version__ = os.environ.get("FAKE_TENSORRT_VERSION", "1.0")

ComputeCapability = enum.Enum("ComputeCapability", ["NONE", "SM75", "SM80", "SM86", "SM120"])
MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})


class ILogger:
    ERROR, INTERNAL_ERROR = "error", "internal error"


def misbehave(path):
    what, _, which = os.environ.get("FAKE_TENSORRT", "").partition(":")
    if not what or which not in path.name:
        return True
    if what == "crash":
        os.abort()  # not a bad access: AddressSanitizer would turn that into an exit code
    if what == "memory":
        hog = bytearray(1 << 29)
        hog[::4096] = b"x" * (1 << 17)
    if what in ("slow", "memory"):
        time.sleep(0.3)
    return what != "refuse"


class OnnxParser:
    def __init__(self, network, logger):
        self._network, self.num_errors = network, 0

    def parse_from_file(self, path):
        self._network.onnx = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        self.num_errors = 0 if misbehave(Path(path)) else 1
        return not self.num_errors

    def get_error(self, index):
        return SimpleNamespace(desc=lambda: "unknown operator")


class Config:
    def __init__(self):
        self.targets, self.profiles, self.num_compute_capabilities = [], [], 0
        self.timings, self.known_timings = None, None
        self.pools = {}

    def set_memory_pool_limit(self, pool, size):
        self.pools[pool.name] = size

    def set_compute_capability(self, capability, index):
        assert index == len(self.targets) < self.num_compute_capabilities
        self.targets.append(capability.name)
        return True

    def add_optimization_profile(self, profile):
        self.profiles.append(profile.shapes)

    def create_timing_cache(self, data):
        return None if data == b"garbage" else SimpleNamespace(serialize=lambda: data + b"+")

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False
        self.timings = cache
        return True

    def get_timing_cache(self):
        return self.timings


class Profile:
    def set_shape(self, name, *shapes):
        self.shapes = (name, *shapes)


class Builder:
    def __init__(self, logger):
        assert isinstance(logger, ILogger)

    def create_network(self, flags):
        shape = SimpleNamespace(shape=(-1, 64))
        return SimpleNamespace(flags=flags, onnx=None, get_input=lambda index: shape)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        asked = {
            "onnx": network.onnx,
            "flags": network.flags,
            "aux_streams": config.max_aux_streams,
            "targets": config.targets,
            "profiles": config.profiles,
        } | config.pools
        return json.dumps(asked).encode()
