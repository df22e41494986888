#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Unpacks the distribution's Python for 64-bit Arm, of the same version as PYTHON, into FOLDER:
# headers, library, and bin/python, which runs it under qemu-aarch64. apt only downloads, with lists of
# its own: this needs no root, installs nothing and changes no setting of the machine.
# Usage: fetch_arm_python.sh PYTHON FOLDER
set -euo pipefail
version="$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
command -v apt-get >/dev/null || { echo "no apt-get here" >&2; exit 1; }
mkdir -p "$2"
folder="$(realpath "$2")"
work="$folder/apt"
rm -rf "$folder"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/tree"
: >"$work/status"
apt=(-qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=
  -o Dir::State="$work" -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status"
  -o Dir::Cache="$work/cache")
apt-get "${apt[@]}" update >/dev/null 2>&1 || true # what is missing shows below
cd "$work/packages"
apt-get "${apt[@]}" download "libpython$version-dev" >/dev/null 2>&1 || {
  echo "no libpython$version-dev for arm64 in the sources of apt" >&2
  rm -rf "$folder"
  exit 1
}
for package in "libpython$version" "libpython${version}t64" "libpython$version-minimal" \
  "libpython$version-stdlib" libexpat1 libffi8 zlib1g; do
  apt-get "${apt[@]}" download "$package" >/dev/null 2>&1 || true # to run it; names differ
done
for package in *.deb; do dpkg-deb -x "$package" "$work/tree"; done
cd "$folder"
mkdir -p lib bin
cp -a "$work/tree/usr/include" .
# The header for all architectures would look for this one beside the compiler's own.
cp "include/aarch64-linux-gnu/python$version/pyconfig.h" "include/python$version/pyconfig.h"
cp -a "$work/tree/usr/lib/." lib
[[ ! -d "$work/tree/lib/aarch64-linux-gnu" ]] || cp -a "$work/tree/lib/." lib
rm -rf "$work"

libraries="$folder/lib/aarch64-linux-gnu"
[[ -e "$libraries/libpython$version.so.1.0" ]] || exit 0
aarch64-linux-gnu-g++ -x c++ -o bin/launcher - -L "$libraries" "-l:libpython$version.so.1.0" \
  -Wl,--allow-shlib-undefined <<'CODE'
extern "C" int Py_BytesMain(int argc, char** argv);
int main(int argc, char** argv) { return Py_BytesMain(argc, argv); }
CODE
cat >bin/python <<RUN
#!/usr/bin/env bash
exec qemu-aarch64 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$libraries" -E PYTHONHOME="$folder" \\
  "$folder/bin/launcher" "\$@"
RUN
chmod +x bin/python
