# SPDX-License-Identifier: Apache-2.0
"""Makes the archive that run.py is started from on a GPU machine that reaches no registry.

Usage: bundle.py PACK [--out FILE] [--python VERSION]     PACK: tests/models/tiny-mixtral, exported
Holds this tree's files, wheels for the machine's Python, and the pack, as they lie here.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PREPARED = Path("build/gpu-bundle")  # below ROOT here, below TOP in the archive
TOP = "adapmoe-gpu"
# pip takes these by name: a wheel for an older C library is not found through a newer one.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)]
LIMIT = 60 << 20


def download_wheels(folder: Path, python: str) -> None:
    """Of the group gpu-bundle, for that machine's Python and not for the one that this runs in."""
    shutil.rmtree(folder, ignore_errors=True)
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    words += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in PLATFORMS:
        words += ["--platform", platform]
    subprocess.run([*words, "--group", f"{ROOT / 'pyproject.toml'}:gpu-bundle"], check=True)


def tracked_files() -> list[Path]:
    """This tree's files, as they are now."""
    words = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(words, text=True).splitlines()
    return [Path(name) for name in names if (ROOT / name).is_file()]


def write_archive(out: Path) -> int:
    """The archive's size in bytes."""
    prepared = [path.relative_to(ROOT) for path in sorted((ROOT / PREPARED).rglob("*.*"))]
    with tarfile.open(out, "w:gz", compresslevel=6) as archive:
        for path in [*tracked_files(), *prepared]:
            archive.add(ROOT / path, f"{TOP}/{path}", recursive=False)
    return out.stat().st_size


def main() -> int:
    """1 if the archive is larger than a machine may take."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pack", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu-bundle.tar.gz")
    parser.add_argument("--python", default="3.12", help="of that machine")
    options = parser.parse_args()
    download_wheels(ROOT / PREPARED / "wheels", options.python)
    pack = ROOT / PREPARED / "tiny-mixtral.adapmoe"
    shutil.rmtree(pack, ignore_errors=True)
    shutil.copytree(options.pack, pack)
    size = write_archive(options.out)
    print(
        f"{options.out}: {size / 2**20:.1f} MiB; there: tar xzf, then {TOP}/tests/gpu_bundle/run.py"
    )
    if size > LIMIT:
        print(f"more than {LIMIT >> 20} MiB: take something out", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
