# SPDX-License-Identifier: Apache-2.0
"""Builds one Debian package: `build.sh --help`. Prints its path."""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from jetson.deb import binaries, control, wheels
from jetson.deb.targets import HERE, MACHINES, RELEASES, ROOT, Target

SYSTEMD = HERE.parent / "systemd"
WORK = ROOT / "build/deb"
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
# As the wheels' own program is, but for -I: nobody's PYTHONPATH and nobody's ~/.local.
PROGRAM = """\
#!/opt/adapmoe/bin/python3 -I
import sys
from adapmoe.cli import start
sys.exit(start())
"""
# A virtual environment without pip. TensorRT's Python package is one of the system's.
PYVENV = """\
home = /usr/bin
include-system-site-packages = true
version = {python}
"""


def main(words: list[str] | None = None) -> None:
    """Builds what the command line asks for."""
    parser = argparse.ArgumentParser(prog="build.sh", description=__doc__)
    parser.add_argument("--python", choices=RELEASES, required=True)
    parser.add_argument("--arch", choices=MACHINES, required=True)
    parser.add_argument("--out", type=Path, default=WORK, help="folder (default: build/deb)")
    parser.add_argument("--revision", type=int, default=1, help="of the package (default: 1)")
    parser.add_argument("--cuda", action="store_true", help="with GPU kernels: needs nvcc")
    parser.add_argument("--download", action="store_true", help="only download what is needed")
    options = parser.parse_args(words)
    target = Target(options.python, options.arch)
    if options.cuda and not target.native:
        parser.error(f"--cuda builds for this machine alone, which is not {target.machine}")
    if not target.native and target.architecture != "arm64":
        parser.error(f"a package for {target.machine} is built on {target.machine}")
    os.chdir(ROOT)
    if options.download:
        python_headers(target)
        uring(target)
        download_wheels(target)
        return
    print(build(target, options.out, options.revision, cuda=options.cuda))


def build(target: Target, out: Path, revision: int, *, cuda: bool) -> Path:
    """Builds a package and returns it."""
    work = WORK / f"{target.python}-{target.architecture}"
    root = work / "root"
    for folder in (root, work / "own"):
        shutil.rmtree(folder, ignore_errors=True)
    site = root / target.site
    site.mkdir(parents=True)
    for wheel in (compile_wheel(target, work, cuda=cuda), *download_wheels(target)):
        wheels.unpack(wheel, site)
    wheels.check_requirements(site, target, "adapmoe[serve]")
    needs = binaries.read_needs(root, target)
    lay_out(root, target)
    bundled = wheels.list_bundled(site)
    (root / "usr/share/doc/adapmoe/copyright").write_text(control.copyright_text(target, bundled))
    version = f"{_version(bundled)}-{revision}+py{target.python}"
    describe(root, target, version, needs)
    return pack(root, out / f"adapmoe_{version}_{target.architecture}.deb")


def download_wheels(target: Target) -> list[Path]:
    """What is bundled besides our own wheel."""
    folder = WORK / f"{target.python}-{target.architecture}/wheels"
    listed = target.requirements.read_text()

    def there() -> list[Path]:  # without those of an earlier list
        return [path for path in sorted(folder.glob("*.whl")) if wheels.digest(path) in listed]

    if len(there()) != listed.count("=="):
        wheels.download(target, target.requirements, folder)
    return there()


def compile_wheel(target: Target, work: Path, *, cuda: bool) -> Path:
    """Our own wheel, with liburing inside: the package must work where it is not installed."""
    definitions = {
        "ADAPMOE_PYTHON_HEADERS": str(python_headers(target)),
        "ADAPMOE_WERROR": "ON",
        "ADAPMOE_CUDA": "ON" if cuda else "OFF",
        "ADAPMOE_URING": "ON",
        **uring(target),
    }
    # Both Pythons share the objects of the core.
    build_dir = ROOT / f"build/deb-{target.architecture}{'-cuda' if cuda else ''}"
    wheel = wheels.build(target, work / "own", build_dir, definitions)
    print((build_dir / "parts.txt").read_text(), end="", file=sys.stderr)
    return wheel


def python_headers(target: Target) -> Path:
    """The headers of the target's Python: this machine's, or those of the Ubuntu for it.

    Those of amd64 serve arm64 too. pyconfig.h differs between the two in four macros, as comparing
    those of Debian's 3.11 and 3.13 shows: HAVE_GCC_ASM_FOR_X64 and _X87 and PY_SUPPORT_TIER, which
    no inline code and no structure of the headers depends on, and HAVE_USABLE_WCHAR_T, of which
    follows only that wchar.h is included, as it is anyhow.
    """
    name = f"python{target.python}"
    if target.native and Path(f"/usr/include/{name}/Python.h").exists():
        return Path("/usr/include") / name
    headers = WORK / f"headers-{target.python}"
    if not headers.exists():
        tree = fetch(target.release.suite, "amd64", f"lib{name}-dev") / "usr/include"
        # The one for all architectures would look for it beside the compiler's own.
        shutil.copy(tree / f"x86_64-linux-gnu/{name}/pyconfig.h", tree / f"{name}/pyconfig.h")
        shutil.copytree(tree / name, headers)
    return headers


def uring(target: Target) -> dict[str, str]:
    """What CMake needs to link liburing statically."""
    if target.native:
        words = [os.environ.get("CXX", "g++"), "-print-file-name=liburing.a"]
        answer = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
        if not Path(answer).is_absolute():
            raise SystemExit("no liburing.a: apt-get install liburing-dev")
        return {"LIBURING_LIBRARY": str(Path(answer).resolve())}
    tree = WORK / f"fetched/bookworm-{target.architecture}-liburing-dev/usr"
    if not tree.exists():
        fetch("bookworm", target.architecture, "liburing-dev")
    return {
        "LIBURING_INCLUDE": str(tree / "include"),
        "LIBURING_LIBRARY": str(tree / f"lib/{target.machine}-linux-gnu/liburing.a"),
    }


def fetch(suite: str, architecture: str, package: str) -> Path:
    """An unpacked package of a Debian or Ubuntu."""
    folder = WORK / f"fetched/{suite}-{architecture}-{package}"
    shutil.rmtree(folder, ignore_errors=True)
    words = [HERE / "fetch.sh", suite, architecture, folder, package]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    return folder


def lay_out(root: Path, target: Target) -> None:
    """Everything that is not a wheel."""
    opt = root / "opt/adapmoe"
    (opt / "bin").mkdir()
    (opt / "bin/python3").symlink_to(f"/usr/bin/python{target.python}")
    (opt / "bin/adapmoe").write_text(PROGRAM)
    (opt / "pyvenv.cfg").write_text(PYVENV.format(python=target.python))
    for folder in ("usr/bin", "usr/share/doc/adapmoe"):
        (root / folder).mkdir(parents=True)
    (root / "usr/bin/adapmoe").symlink_to("/opt/adapmoe/bin/adapmoe")

    units = root / "lib/systemd/system"
    copy(SYSTEMD / "adapmoe.service", units / "adapmoe.service")
    copy(SYSTEMD / "adapmoe@.service", units / "adapmoe@.service")
    if target.python != "3.10":  # the older systemd does not know its keys
        for unit in ("adapmoe", "adapmoe@"):
            copy(SYSTEMD / "backoff.conf", units / f"{unit}.service.d/backoff.conf")
    copy(SYSTEMD / "adapmoe.sysusers.conf", root / "usr/lib/sysusers.d/adapmoe.conf")
    copy(SYSTEMD / "adapmoe.tmpfiles.conf", root / "usr/lib/tmpfiles.d/adapmoe.conf")
    copy(SYSTEMD / "adapmoe.toml", root / "etc/adapmoe/adapmoe.toml")

    share = root / "usr/share/adapmoe"
    for path in [*sorted(HERE.parent.glob("*.sh")), *sorted(SYSTEMD.iterdir())]:
        if path.suffix != ".sh" or path.stat().st_mode & 0o111 or path.name == "service.sh":
            copy(path, share / path.relative_to(HERE.parent))


def copy(source: Path, destination: Path) -> None:
    """Copies one file into a new folder."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, destination)


def describe(root: Path, target: Target, version: str, needs: binaries.Needs) -> None:
    """The folder DEBIAN."""
    debian = root / "DEBIAN"
    debian.mkdir()
    size = sum(path.stat().st_size for path in root.rglob("*") if not path.is_symlink())
    depends = needs.packages()
    (debian / "control").write_text(control.control(target, version, size, depends))
    (debian / "conffiles").write_text("/etc/adapmoe/adapmoe.toml\n")
    (debian / "md5sums").write_text(control.checksums(root))
    for name in SCRIPTS:
        shutil.copy(HERE / f"{name}.sh", debian / name)


def pack(root: Path, deb: Path) -> Path:
    """The file: the same bytes for the same content, whoever builds it, and when."""
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _last_commit())
    programs = {*(root / "DEBIAN" / name for name in SCRIPTS), root / "opt/adapmoe/bin/adapmoe"}
    programs |= set((root / "usr/share/adapmoe").glob("*.sh"))
    for path in sorted(root.rglob("*"), reverse=True):  # what is in a folder before the folder
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path in programs else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    (root / "etc/adapmoe").chmod(0o750)
    os.utime(root, (epoch, epoch))
    root.chmod(0o755)
    deb.parent.mkdir(parents=True, exist_ok=True)
    words = ["dpkg-deb", "--build", "--root-owner-group", "-Zzstd", "-z6", root, deb]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)
    return deb


def _version(bundled: list[wheels.Bundled]) -> str:
    return next(one.version for one in bundled if one.name == "adapmoe")


def _last_commit() -> str:
    words = ["git", "log", "-1", "--format=%ct"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("no git repository: set SOURCE_DATE_EPOCH, seconds, for the files' times")
    return done.stdout


if __name__ == "__main__":
    main()
