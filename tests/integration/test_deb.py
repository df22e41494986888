# SPDX-License-Identifier: Apache-2.0
"""The Debian packages: what is in them, and their life in a clean Ubuntu."""

import hashlib
import json
import os
import re
import shutil
import subprocess

import pytest

from adapmoe import __version__
from support.build.wheels import module_name
from support.deb.clean_root import CleanRoot
from support.source.source_tree import ROOT

pytestmark = pytest.mark.deb

FOLDER = ROOT / "build/deb"
SUITES = {"3.10": "jammy", "3.12": "noble"}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
PACKAGES = [(python, architecture) for python in SUITES for architecture in MACHINES]
# The Python of an architecture that imports what was built for another: for 3.12 any later one.
ARM_PYTHONS = {"3.10": "3.10", "3.12": "3.13"}
CONFIG = "etc/adapmoe/adapmoe.toml"
ASK = ROOT / "tests/support/deb/ask_server.py"
CHECK = ROOT / "tests/support/build/check_core.py"


def package(python, architecture):
    path = FOLDER / f"adapmoe_{__version__}-1+py{python}_{architecture}.deb"
    if not path.exists():
        pytest.skip(f"no {path.relative_to(ROOT)}: `make deb` says why")
    return path


def output(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def site(python):
    return f"opt/adapmoe/lib/python{python}/site-packages"


def core(root, python, architecture):
    version = tuple(map(int, python.split(".")))
    name = module_name("_core", MACHINES[architecture], version)
    return root / site(python) / "adapmoe" / name


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """A function from Python and architecture to the folder of the unpacked package."""
    folders = {}

    def unpack(python, architecture):
        if (python, architecture) not in folders:
            folder = tmp_path_factory.mktemp("unpacked") / "root"
            output("dpkg-deb", "--raw-extract", package(python, architecture), folder)
            folders[python, architecture] = folder
        return folders[python, architecture]

    return unpack


@pytest.mark.parametrize(("python", "architecture"), PACKAGES)
def test_what_it_says_of_itself(python, architecture):
    deb = package(python, architecture)
    fields = dict(
        line.split(": ", 1)
        for line in output("dpkg-deb", "--field", deb).splitlines()
        if not line.startswith(" ")
    )
    assert fields["Package"] == "adapmoe"
    assert fields["Version"] == f"{__version__}-1+py{python}"
    assert fields["Architecture"] == architecture
    assert int(fields["Installed-Size"]) > 50_000
    depends = fields["Depends"].split(", ")
    assert depends[0] == f"python{python}"
    (glibc,) = [re.fullmatch(r"libc6 \(>= 2\.(\d+)\)", text) for text in depends if "libc6" in text]
    assert int(glibc[1]) <= 35
    assert "libstdc++6 (>= 12)" in depends
    assert not [text for text in depends if "uring" in text]


@pytest.mark.parametrize(("python", "architecture"), PACKAGES)
def test_owners_modes_times_and_order_are_fixed(python, architecture):
    listing = output("dpkg-deb", "--contents", package(python, architecture)).splitlines()
    rows = [re.match(r"(\S+) (\S+) +\d+ (\S+ \S+) \./(.*?)( -> .*)?$", line) for line in listing]
    assert all(rows)
    assert {row[2] for row in rows} == {"root/root"}
    assert len({row[3] for row in rows}) == 1
    modes = {row[1]: row[4] for row in rows}
    assert set(modes) == {"drwxr-xr-x", "drwxr-x---", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}
    names = [row[4] for row in rows]
    assert [name for name in names if name.startswith("opt/adapmoe/bin/")] == [
        "opt/adapmoe/bin/",
        "opt/adapmoe/bin/adapmoe",
        "opt/adapmoe/bin/python3",
    ]
    tops = sorted({name.split("/")[0] for name in names} - {""})
    assert tops == ["etc", "lib", "opt", "usr"]
    assert not [name for name in names if "__pycache__" in name or "/pip/" in name]


@pytest.mark.parametrize(("python", "architecture"), PACKAGES)
def test_its_files_are_those_of_the_tree(unpacked, python, architecture):
    root = unpacked(python, architecture)
    systemd = ROOT / "jetson/systemd"
    for name, place in (
        ("adapmoe.service", "lib/systemd/system/adapmoe.service"),
        ("adapmoe@.service", "lib/systemd/system/adapmoe@.service"),
        ("adapmoe.sysusers.conf", "usr/lib/sysusers.d/adapmoe.conf"),
        ("adapmoe.tmpfiles.conf", "usr/lib/tmpfiles.d/adapmoe.conf"),
        ("adapmoe.toml", CONFIG),
        ("adapmoe.toml", "usr/share/adapmoe/systemd/adapmoe.toml"),
        ("../install.sh", "usr/share/adapmoe/install.sh"),
        ("../service.sh", "usr/share/adapmoe/service.sh"),
    ):
        assert (root / place).read_bytes() == (systemd / name).read_bytes(), place
    backoff = sorted((root / "lib/systemd/system").glob("*.d/backoff.conf"))
    assert len(backoff) == (0 if python == "3.10" else 2)
    assert (root / "DEBIAN/conffiles").read_text() == f"/{CONFIG}\n"
    listed = {}
    for line in (root / "DEBIAN/md5sums").read_text().splitlines():
        digest, name = line.split("  ")
        listed[name] = digest
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in found:
        name = path.relative_to(root).as_posix()
        if not name.startswith(("DEBIAN/", "etc/")):
            assert listed.pop(name) == hashlib.md5(path.read_bytes()).hexdigest(), name
        assert bytes(ROOT) not in path.read_bytes(), f"{name} names this checkout"
    assert listed == {}


@pytest.mark.parametrize(("python", "architecture"), PACKAGES)
def test_licences_of_everything_bundled_are_listed(unpacked, python, architecture):
    root = unpacked(python, architecture)
    text = (root / "usr/share/doc/adapmoe/copyright").read_text()
    table = re.findall(r"^ (\S+) (\S+): (.+) \((\S+)\.dist-info\)$", text, re.MULTILINE)
    folders = {path.name for path in (root / site(python)).glob("*.dist-info")}
    assert {f"{row[3]}.dist-info" for row in table} == folders
    assert {"adapmoe", "fastapi", "numpy", "tokenizers"} <= {row[0] for row in table}
    assert ("tomli" in {row[0] for row in table}) == (python == "3.10")
    assert [row for row in table if row[2] == "see its folder"] == []


def python_symbols(path):
    listing = output("readelf", "-W", "--dyn-syms", path)
    return set(re.findall(r" UND (_?Py\w+)", listing))


@pytest.mark.parametrize("python", SUITES)
def test_the_core_for_arm_asks_python_for_what_the_one_here_does(unpacked, python):
    arm = python_symbols(core(unpacked(python, "arm64"), python, "arm64"))
    assert arm
    assert arm == python_symbols(core(unpacked(python, "amd64"), python, "amd64"))


@pytest.mark.parametrize("python", SUITES)
def test_a_python_for_arm_imports_the_core_and_reads_a_pack(unpacked, python, pack_factory):
    root = unpacked(python, "arm64")
    system = FOLDER / f"python-{ARM_PYTHONS[python]}-arm64"
    program = system / f"usr/bin/python{ARM_PYTHONS[python]}"
    if not program.exists():
        pytest.skip(f"no Python {ARM_PYTHONS[python]} for arm64 in {system.relative_to(ROOT)}")
    emulator = ["qemu-aarch64", "-L", system, "-E", f"PYTHONHOME={system}/usr"]
    words = [*emulator, program, "-B", CHECK, root / site(python), pack_factory()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["version"] == __version__
    assert seen["backend"] == "cpu/neon"
    assert seen["begun"] == seen["resident"] == seen["experts"] > 0


@pytest.fixture
def root(tmp_path):
    """A function from a Python to an Ubuntu that has it; only root can enter one."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to enter another root")

    def make(python):
        archive = FOLDER / f"roots/{SUITES[python]}.tar"
        if not archive.exists():
            pytest.skip(f"no {archive.relative_to(ROOT)}: `make deb` says why")
        return CleanRoot(archive, tmp_path / "root")

    yield make
    shutil.rmtree(tmp_path)  # half a gigabyte


def next_version(deb, folder):
    """The package with a higher version and another conffile."""
    output("dpkg-deb", "--raw-extract", deb, folder)
    control = folder / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {__version__}-1", "Version: 99.0-1"))
    with (folder / CONFIG).open("a") as file:
        file.write("# new in 99.0\n")
    output("dpkg-deb", "--build", "--root-owner-group", "-Znone", folder, folder.parent / "99.deb")
    return folder.parent / "99.deb"


def use(root, pack):
    """All that a user does: looks at the machine, generates, serves."""
    assert root("adapmoe", "--version").strip().endswith(__version__)
    report = json.loads(root("adapmoe", "doctor", "--json"))
    assert "io_uring" in json.dumps(report)
    words = ["-p", "The function returns", "-n", "8", "--temperature", "0"]
    text = root("adapmoe", "run", pack, *words)
    answer = root("/opt/adapmoe/bin/python3", "/mnt/ask_server.py", pack)
    choice = json.loads(answer.splitlines()[-1])["choices"][0]
    assert choice["text"]
    return text


@pytest.mark.parametrize("python", SUITES)
def test_installed_upgraded_removed_and_purged(root, tmp_path, pack_factory, python):
    root = root(python)
    shutil.copy(package(python, "amd64"), root.path / "mnt/1.deb")
    shutil.copy(next_version(package(python, "amd64"), tmp_path / "next"), root.path / "mnt/2.deb")
    shutil.copy(ASK, root.path / "mnt")
    (root.path / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True, exist_ok=True)
    before = root.files()

    root("dpkg", "--install", "/mnt/1.deb")
    pack = "/var/lib/adapmoe/tiny.adapmoe"
    shutil.copytree(pack_factory(), root.path / pack[1:])
    first = use(root, pack)
    assert "adapmoe" in root("id", "-nG", "adapmoe").split()
    assert {"video", "render"} <= set(root("id", "-nG", "adapmoe").split())
    assert root(
        "stat", "-c", "%a %U %G", "/var/lib/adapmoe", "/var/cache/adapmoe", "/etc/adapmoe"
    ).splitlines() == ["2775 adapmoe adapmoe", "750 adapmoe adapmoe", "750 root adapmoe"]
    assert root("dpkg", "--verify", "adapmoe") == ""
    assert list((root.path / site(python) / "adapmoe").glob("__pycache__/llm*.pyc"))

    with (root.path / CONFIG).open("a") as file:
        file.write("# mine\n")
    root("dpkg", "--install", "--force-confold", "/mnt/2.deb")
    assert (root.path / CONFIG).read_text().endswith("# mine\n")
    assert (root.path / f"{CONFIG}.dpkg-dist").read_text().endswith("# new in 99.0\n")
    assert use(root, pack) == first

    root("dpkg", "--remove", "adapmoe")
    left = {name for name in root.files() - before if name.startswith(("opt", "usr", "lib"))}
    assert left == set()
    assert (root.path / CONFIG).read_text().endswith("# mine\n")

    root("dpkg", "--install", "--force-confold", "/mnt/2.deb")
    assert root("adapmoe", "--version").strip().endswith(__version__)
    service_leftovers(root)
    root("dpkg", "--purge", "adapmoe")
    left = root.files()
    assert before - left <= {"opt"}  # no package owns it: dpkg removes it when empty
    assert {name for name in left - before if not name.startswith("var/lib/adapmoe")} == {
        "etc/adapmoe",
        "etc/adapmoe/keys",
        "etc/systemd/system/adapmoe.service.d",
        "etc/systemd/system/adapmoe.service.d/mine.conf",
    }
    assert root("id", "-un", "adapmoe") == "adapmoe\n"


def service_leftovers(root):
    """What install.sh and its user leave of a service: as jetson/service.sh records it."""
    units = root.path / "etc/systemd/system"
    (units / "adapmoe.service.d").mkdir()
    (units / "adapmoe@b.service.d").mkdir()
    wanted = units / "multi-user.target.wants/adapmoe.service"
    wanted.symlink_to("/lib/systemd/system/adapmoe.service")
    for name in ("adapmoe.service.d/plan.conf", "adapmoe.service.d/mine.conf"):
        (units / name).write_text("[Service]\n")
    (units / "adapmoe@b.service.d/plan.conf").write_text("[Service]\n")
    etc = root.path / "etc/adapmoe"
    (etc / "b.toml").write_text("port = 8001\n")
    (etc / "keys").write_text("me:secret\n")
    digest = hashlib.sha256(b"port = 8001\n").hexdigest()
    (etc / "installed.txt").write_text(
        "folder /etc/systemd/system/adapmoe.service.d\n"
        "unit /etc/systemd/system/adapmoe.service.d/plan.conf\n"
        "enabled adapmoe.service\n"
        "folder /etc/systemd/system/adapmoe@b.service.d\n"
        "unit /etc/systemd/system/adapmoe@b.service.d/plan.conf\n"
        f"config {digest} /etc/adapmoe/b.toml\n"
    )


def test_it_is_not_mixed_with_what_install_sh_made(root):
    root = root("3.10")
    shutil.copy(package("3.10", "amd64"), root.path / "mnt/1.deb")
    (root.path / "opt/adapmoe").mkdir()
    (root.path / "opt/adapmoe/installed.txt").write_text("folder /opt/adapmoe\n")
    before = root.files()
    done = root.try_("dpkg", "--install", "/mnt/1.deb")
    assert done.returncode != 0
    assert "call that with --uninstall first (packs stay)" in done.stderr
    assert root.files() == before
