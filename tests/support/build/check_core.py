# SPDX-License-Identifier: Apache-2.0
"""Imports the compiled core of a folder and reads a pack with it, under a Python without NumPy.

Usage: check_core.py SITE PACK. Prints JSON.
"""

import json
import sys
import time
import types


def main(site: str, pack: str) -> None:
    # The package as it is would import NumPy; the module does not need it until there are logits.
    package = types.ModuleType("adapmoe")
    package.__path__ = [site + "/adapmoe"]
    sys.modules["adapmoe"] = package
    from adapmoe import _core

    config = json.loads(_core.inspect_pack(pack))["config"]
    sizes = config["num_hidden_layers"], config["num_local_experts"]
    experts = [(layer, expert) for layer in range(sizes[0]) for expert in range(sizes[1])]
    session = _core.Session(pack, experts_resident=1.0, threads=1, max_context=64)
    begun = session.warm(experts)  # reads every tile and looks at its checksum
    end = time.monotonic() + 60
    while len(session.resident_set()) < len(experts) and time.monotonic() < end:
        time.sleep(0.05)
    seen = {
        "version": _core.__version__,
        "kernels": _core.build_info()["kernels"],
        "backend": session.backend,
        "begun": begun,
        "resident": len(session.resident_set()),
        "experts": len(experts),
    }
    print(json.dumps(seen, allow_nan=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
