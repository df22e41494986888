# SPDX-License-Identifier: Apache-2.0
"""The texts that describe a package to dpkg."""

import hashlib
from pathlib import Path

from jetson.deb.targets import Target
from jetson.deb.wheels import Bundled

DESCRIPTION = """\
Runs Mixture-of-Experts models that do not fit in memory
 Experts of a model are read from NVMe while tokens are made, within a fixed
 ceiling of memory. `adapmoe serve` serves a model with the interfaces of OpenAI
 and Anthropic; as a service of systemd, once install.sh of /usr/share/adapmoe
 was told which.
 .
 This package is self-contained: all Python packages that it needs are in
 /opt/adapmoe.
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: adapmoe
Comment:
 The folders below {site} hold the licences of the Python packages
 that this package bundles:
 .
{table}

Files: *
Copyright: The AdapMoE authors
License: Apache-2.0
 On Debian systems, the text is in /usr/share/common-licenses/Apache-2.0.

Files: {site}/adapmoe/_core*.so
Copyright: The AdapMoE authors
 Wenzel Jakob (nanobind)
 Thibaut Goetghebuer-Planchon (tsl::robin_map, in nanobind)
 Niels Lohmann (JSON for Modern C++)
 Jens Axboe (liburing)
License: Apache-2.0 and BSD-3-Clause and MIT
 Compiled in: nanobind (BSD-3-Clause); tsl::robin_map, JSON for Modern C++ and liburing (MIT, the
 last also LGPL-2.1).

License: BSD-3-Clause
{bsd}

License: MIT
{mit}
"""

BSD = """\
Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the following conditions are met:

1. Redistributions of source code must retain the above copyright notice, this list of conditions
and the following disclaimer.

2. Redistributions in binary form must reproduce the above copyright notice, this list of
conditions and the following disclaimer in the documentation and/or other materials provided with
the distribution.

3. Neither the name of the copyright holder nor the names of its contributors may be used to
endorse or promote products derived from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS "AS IS" AND ANY EXPRESS OR
IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT HOLDER OR
CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL
DAMAGES (INCLUDING, BUT NOT LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY THEORY OF LIABILITY, WHETHER
IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF
THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE."""

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def control(target: Target, version: str, size: int, depends: list[str]) -> str:
    """The file `control`; `size` in bytes."""
    # Its interpreter is linked to by name, and its standard library is used.
    depends = [f"python{target.python}", *depends, "passwd"]
    return (
        "Package: adapmoe\n"
        f"Version: {version}\n"
        f"Architecture: {target.architecture}\n"
        "Maintainer: AdapMoE <adapmoe@invalid.invalid>\n"
        f"Installed-Size: {-(-size // 1024)}\n"
        f"Depends: {', '.join(depends)}\n"
        "Section: science\n"
        "Priority: optional\n"
        f"Description: {DESCRIPTION}"
    )


def copyright_text(target: Target, bundled: list[Bundled]) -> str:
    """The file `copyright`."""
    lines = [f" {one.name} {one.version}: {one.licence} ({one.folder})" for one in bundled]
    return COPYRIGHT.format(
        site=target.site, table="\n".join(lines), bsd=_indent(BSD), mit=_indent(MIT)
    )


def checksums(root: Path) -> str:
    """The file `md5sums`: every file but configuration."""
    lines = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not path.is_symlink() and name.split("/")[0] not in ("DEBIAN", "etc"):
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            lines.append(f"{digest}  {name}\n")
    return "".join(lines)


def _indent(text: str) -> str:
    return "\n".join(f" {line or '.'}" for line in text.splitlines())
