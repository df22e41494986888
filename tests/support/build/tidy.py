# SPDX-License-Identifier: Apache-2.0
"""clang-tidy over the core's files, each once per content.

Usage: tidy.py CLANG_TIDY BUILD [--changed]
BUILD has compile_commands.json and gets a stamp per clean file. --changed takes only files that
differ from the main branch, or that include one that does.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / ".clang-tidy"
JOBS = 2
_INCLUDE = re.compile(rb'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


@cache
def needs(path: Path) -> frozenset[Path]:
    """`path` and every file of ours that it includes, directly or not."""
    found, queue = {path}, [path]
    while queue:
        for name in _INCLUDE.findall(queue.pop().read_bytes()):
            header = ROOT / name.decode()
            if header.is_file() and header not in found:
                found.add(header)
                queue.append(header)
    return frozenset(found)


def git(*words: str) -> str | None:
    """What git prints, None where it fails (no repository, no such branch)."""
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def changed_files() -> set[Path] | None:
    """What differs from the main branch, uncommitted work included; None where there is none."""
    for branch in ("origin/main", "main"):
        base = git("merge-base", "HEAD", branch)
        if base is None:
            continue
        differing = git("diff", "--name-only", base.strip()) or ""
        untracked = git("ls-files", "--others", "--exclude-standard") or ""
        return {ROOT / name for name in (differing + untracked).splitlines()}
    return None


def key_of(path: Path, command: str, version: str) -> str:
    """What decides clang-tidy's answer, short of the system's headers."""
    digest = hashlib.sha256(f"{version}\n{command}\n".encode())
    for part in (CONFIG, *sorted(needs(path))):
        digest.update(hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()


def main() -> int:
    """Print every finding; 1 if there is one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("clang_tidy")
    parser.add_argument("build", type=Path)
    parser.add_argument("--changed", action="store_true")
    options = parser.parse_args()
    version = subprocess.check_output([options.clang_tidy, "--version"], text=True)
    database = json.loads((options.build / "compile_commands.json").read_text())
    runtime = ROOT / "runtime"
    commands = {Path(entry["file"]): entry["command"] for entry in database}
    files = sorted(path for path in commands if runtime in path.parents and path.suffix == ".cc")
    changed = changed_files() if options.changed else None
    if changed is not None and CONFIG not in changed:
        files = [path for path in files if needs(path) & changed]
    stamps = options.build / "tidy"
    stamps.mkdir(exist_ok=True)

    def check(path: Path) -> bool:
        stamp = stamps / key_of(path, commands[path], version)
        if stamp.exists():
            return True
        words = [options.clang_tidy, "-quiet", "-p", str(options.build), str(path)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            print(done.stdout + done.stderr, flush=True)
            return False
        stamp.touch()
        return True

    with ThreadPoolExecutor(JOBS) as pool:
        results = list(pool.map(check, files))
    print(f"clang-tidy: {len(files)} files, {results.count(False)} with findings")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
