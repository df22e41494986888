# SPDX-License-Identifier: Apache-2.0
"""Writes requirements-VERSION.txt: the newest wheels that the server needs, with their hashes.

Usage, from the root of the repository: python -m jetson.deb.lock. Needs uv, from PyPI, on PATH: pip
alone decides what a package requires by the Python that it runs in.
"""

import subprocess
import tempfile
from pathlib import Path

from packaging.utils import parse_wheel_filename

from jetson.deb.targets import MACHINES, RELEASES, ROOT, Target
from jetson.deb.wheels import digest, download

HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# The wheels in the package for Python {python}, on both architectures: python -m jetson.deb.lock
"""


def resolve(target: Target) -> str:
    """The requirements of the server, as lines name==version."""
    words = ["uv", "pip", "compile", "-q", ROOT / "pyproject.toml", "--extra=serve"]
    words += ["--no-header", "--no-annotate", "--only-binary=:all:"]
    words += [f"--python-version={target.python}"]
    words += [f"--python-platform={target.machine}-manylinux_2_35"]
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def lock(python: str) -> str:
    """The text of a file of requirements."""
    targets = [Target(python, architecture) for architecture in MACHINES]
    texts = {resolve(target) for target in targets}
    if len(texts) > 1:
        raise SystemExit(f"Python {python} needs different wheels on {' and '.join(MACHINES)}")
    hashes: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        listing = Path(name) / "requirements.txt"
        listing.write_text(texts.pop())
        for target in targets:
            download(target, listing, Path(name), hashes=False)
        for path in Path(name).glob("*.whl"):
            project, version, *_ = parse_wheel_filename(path.name)
            hashes.setdefault(f"{project}=={version}", set()).add(digest(path))
    lines = [
        " \\\n".join([pin, *(f"    --hash=sha256:{one}" for one in sorted(found))]) + "\n"
        for pin, found in sorted(hashes.items())
    ]
    return HEADER.format(python=python) + "".join(lines)


if __name__ == "__main__":
    for python in RELEASES:
        Target(python, "amd64").requirements.write_text(lock(python))
