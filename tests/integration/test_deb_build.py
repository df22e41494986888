# SPDX-License-Identifier: Apache-2.0
"""What ends the building of a Debian package, because it could not run where it is installed."""

import shutil
import zipfile

import pytest

from jetson.deb import binaries, control, wheels
from jetson.deb.targets import MACHINES, RELEASES, Target

TARGET = Target("3.10", "amd64")


def bundle(site, name, version, *requires, licence="License-Expression: MIT"):
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {version}", licence]
    lines += [f"Requires-Dist: {text}" for text in requires]
    (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", *lines, ""]))


def test_all_that_is_required_must_be_there(tmp_path):
    bundle(
        tmp_path, "adapmoe", "1.0", "rich>=13", 'fastapi; extra == "serve"', 'torch; extra == "x"'
    )
    bundle(tmp_path, "rich", "15.0", 'tomli; python_version < "3.11"')
    bundle(tmp_path, "fastapi", "0.2")
    with pytest.raises(SystemExit, match="missing: tomli"):
        wheels.check_requirements(tmp_path, TARGET, "adapmoe[serve]")
    wheels.check_requirements(tmp_path, Target("3.12", "amd64"), "adapmoe[serve]")


def test_versions_count_and_so_does_what_nobody_requires(tmp_path):
    bundle(tmp_path, "adapmoe", "1.0", "rich>=13")
    bundle(tmp_path, "rich", "12.0")
    bundle(tmp_path, "left-over", "1.0")
    with pytest.raises(SystemExit) as error:
        wheels.check_requirements(tmp_path, TARGET, "adapmoe")
    assert "missing: rich>=13, which adapmoe requires" in str(error.value)
    assert "nothing requires left-over" in str(error.value)
    assert "requirements-3.10.txt: run jetson/deb/lock.py again" in str(error.value)


def test_a_wheel_is_unpacked_without_programs_and_compiled_files(tmp_path):
    path = tmp_path / "a-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (
            "a/b.py",
            "a/__pycache__/b.pyc",
            "a-1.0.data/scripts/a",
            "a-1.0.data/purelib/c.py",
            "a-1.0.data/data/man/a.1",
        ):
            archive.writestr(name, name)
    wheels.unpack(path, tmp_path / "site")
    found = [item for item in (tmp_path / "site").rglob("*") if item.is_file()]
    names = {item.relative_to(tmp_path / "site").as_posix() for item in found}
    assert names == {"a/b.py", "c.py"}


@pytest.mark.parametrize("name", ["../a", "/a"])
def test_a_wheel_stays_in_its_folder(tmp_path, name):
    path = tmp_path / "a-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "text")
    with pytest.raises(SystemExit, match="outside of the wheel"):
        wheels.unpack(path, tmp_path / "site")


@pytest.fixture
def root(tmp_path):
    """A root with a program that is for this machine and needs its C library alone."""
    folder = tmp_path / "root"
    folder.mkdir()
    shutil.copy(shutil.which("env"), folder / "program")
    return folder


def native(**symbols):
    (architecture,) = [name for name in MACHINES if Target("3.10", name).native]
    target = Target("3.10", architecture)
    newest = {name: (99,) for name in target.release.symbols} | symbols
    return target, newest


def test_files_for_another_machine_are_refused(root):
    (other,) = [name for name in MACHINES if not Target("3.10", name).native]
    with pytest.raises(SystemExit, match=f"not for jammy on {other}:\nprogram: for "):
        binaries.read_needs(root, Target("3.10", other))


def test_symbols_newer_than_the_release_are_refused(root, monkeypatch):
    target, newest = native(GLIBC=(2, 3))
    monkeypatch.setitem(RELEASES, "3.10", type(RELEASES["3.10"])("jammy", newest))
    with pytest.raises(SystemExit, match=r"program: needs GLIBC_2\.\d+"):
        binaries.read_needs(root, target)


def test_what_is_needed_becomes_dependencies(root, monkeypatch):
    target, newest = native()
    monkeypatch.setitem(RELEASES, "3.10", type(RELEASES["3.10"])("jammy", newest))
    assert any(
        text.startswith("libc6 (>= 2.") for text in binaries.read_needs(root, target).packages()
    )
    needs = binaries.Needs(
        {"libc.so.6", "libstdc++.so.6"}, {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 30)}
    )
    assert needs.packages() == ["libc6 (>= 2.34)", "libstdc++6 (>= 12)"]


def test_a_library_that_no_package_holds_is_refused(root, monkeypatch):
    target, newest = native()
    monkeypatch.setitem(RELEASES, "3.10", type(RELEASES["3.10"])("jammy", newest))
    monkeypatch.delitem(binaries.PACKAGES, "libc.so.6")
    with pytest.raises(SystemExit, match=r"program: needs libc\.so\.6, which is not in"):
        binaries.read_needs(root, target)


def test_every_kind_of_licence_field_is_read(tmp_path):
    bundle(tmp_path, "a", "1", licence="License-Expression: MIT")
    bundle(tmp_path, "b", "1", licence="License: Apache 2.0")
    bundle(tmp_path, "c", "1", licence="Classifier: License :: OSI Approved :: BSD License")
    bundle(tmp_path, "d", "1", licence="Summary: none")
    found = [one.licence for one in wheels.list_bundled(tmp_path)]
    assert found == ["MIT", "Apache 2.0", "BSD License", "see its folder"]


def test_the_control_file_rounds_sizes_up():
    text = control.control(TARGET, "1.0-1+py3.10", 1025, ["libc6 (>= 2.34)"])
    assert "\nInstalled-Size: 2\n" in text
    assert "\nDepends: python3.10, libc6 (>= 2.34), passwd\n" in text
    assert "\n\n" not in text
    assert text.endswith("\n")
