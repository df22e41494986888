# SPDX-License-Identifier: Apache-2.0
"""The bundled wheels: downloading, unpacking, and whether anything is missing among them."""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jetson.deb.targets import Target

# Newest C library that a wheel's name may ask for. What its modules really need is looked at too.
_GLIBC = 35
_LEGACY = ("manylinux2014", "manylinux2010", "manylinux1", "linux")


def download(target: Target, requirements: Path, folder: Path, *, hashes: bool = True) -> None:
    """Puts the wheels that a file lists into `folder`, without what those require.

    Markers would be judged by this Python, not by the target's: the file must have none.
    """
    platforms = [f"manylinux_2_{minor}_{target.machine}" for minor in range(_GLIBC, 16, -1)]
    platforms += [f"{name}_{target.machine}" for name in _LEGACY]
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    words += ["--implementation=cp", f"--python-version={target.python}"]
    words += [f"--platform={platform}" for platform in platforms]
    words += ["--require-hashes"] if hashes else []
    done = subprocess.run(
        [*words, "-d", folder, "-r", requirements], stderr=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"cannot have the wheels of {requirements.name}: {done.stderr.strip()}")


def build(target: Target, folder: Path, build_dir: Path, definitions: dict[str, str]) -> Path:
    """Compiles our own wheel into `folder`, and returns it."""
    abi = "abi3" if target.python == "3.12" else target.tag
    words = [sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-build-isolation", "--no-deps"]
    settings = [
        f"build-dir={build_dir}",
        f"wheel.py-api={target.tag if abi == 'abi3' else ''}",
        f"wheel.tags={target.tag}-{abi}-linux_{target.machine}",
    ]
    if not target.native:
        settings.append("cmake.args=--toolchain=tests/support/build/aarch64.cmake")
    settings += [f"cmake.define.{name}={value}" for name, value in definitions.items()]
    suffix = f".cpython-{target.tag[2:]}-{target.machine}-linux-gnu.so"
    environment = os.environ | {
        "_PYTHON_HOST_PLATFORM": f"linux-{target.machine}",
        "SETUPTOOLS_EXT_SUFFIX": suffix,
    }
    for setting in settings:
        words += ["-C", setting]
    subprocess.run([*words, "-w", folder], check=True, env=environment)
    (wheel,) = folder.glob("adapmoe-*.whl")
    return wheel


def digest(wheel: Path) -> str:
    """Its SHA-256."""
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def unpack(wheel: Path, site: Path) -> None:
    """Unpacks a wheel as pip would, but for programs and manual pages."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            path = Path(name)
            if path.is_absolute() or ".." in path.parts:
                raise SystemExit(f"{wheel.name}: {name} is outside of the wheel")
            if path.parts[0].endswith(".data"):
                if path.parts[1] not in ("purelib", "platlib"):
                    continue
                path = Path(*path.parts[2:])
            if name.endswith("/") or "__pycache__" in path.parts:
                continue  # dpkg would find that file changed when postinst compiles
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_bytes(archive.read(name))


@dataclass(frozen=True)
class Bundled:
    """One unpacked wheel."""

    name: str
    version: str
    licence: str
    folder: str


def list_bundled(site: Path) -> list[Bundled]:
    """Every wheel unpacked in `site`, by name."""
    found = [
        Bundled(
            canonicalize_name(distribution.metadata["Name"]),
            distribution.version,
            _licence(distribution),
            folder.name,
        )
        for folder, distribution in _distributions(site)
    ]
    return sorted(found, key=lambda one: one.name)


def check_requirements(site: Path, target: Target, wanted: str) -> None:
    """Ends the program unless everything that `wanted` requires is in `site`."""
    environment = {
        "python_version": target.python,
        "python_full_version": f"{target.python}.0",
        "platform_machine": target.machine,
    }
    found = {
        canonicalize_name(distribution.metadata["Name"]): distribution
        for _, distribution in _distributions(site)
    }
    missing: list[str] = []
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(wanted), "the package")]
    while todo:
        requirement, origin = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in found or not requirement.specifier.contains(
            found[name].version, prereleases=True
        ):
            missing.append(f"{requirement}, which {origin} requires")
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in found[name].requires or []:
                inner = Requirement(text)
                if not inner.marker or inner.marker.evaluate({**environment, "extra": extra}):
                    todo.append((inner, name))
    unused = sorted(set(found) - {name for name, _ in seen})
    problems = [f"missing: {text}" for text in sorted(set(missing))]
    problems += [f"nothing requires {name}" for name in unused]
    if problems:
        listing = "\n".join(problems)
        raise SystemExit(f"{target.requirements.name}: run jetson/deb/lock.py again\n{listing}")


def _distributions(site: Path) -> list[tuple[Path, Distribution]]:
    folders = sorted(site.glob("*.dist-info"))
    return [(folder, PathDistribution(folder)) for folder in folders]


def _licence(distribution: Distribution) -> str:
    metadata = distribution.metadata
    prefix = "License :: OSI Approved :: "
    classifiers = [
        text.removeprefix(prefix)
        for text in metadata.get_all("Classifier") or []
        if text.startswith(prefix)
    ]
    first = (metadata.get("License") or "").strip().splitlines()[:1]
    return metadata.get("License-Expression") or ", ".join(classifiers or first) or "see its folder"
