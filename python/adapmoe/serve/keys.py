# SPDX-License-Identifier: Apache-2.0
"""API keys: who may use the server. Only digests of the secrets stay in memory."""

import hashlib
import hmac
import os
import re
import stat
from pathlib import Path

from adapmoe.serve.config import ConfigError

MIN_SECRET = 16  # characters

_MAX_FILE_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SECRET = re.compile(r"[!-~]{1,1024}")  # what a header can carry, without spaces


class Keys:
    """The keys of a file with a line `name:secret` for each; # begins a comment line.

    Thread-safe: `read_again` replaces all keys at once.
    """

    def __init__(self, path: Path, digests: dict[str, bytes]) -> None:
        """Use `of_file`."""
        self._path = path
        self._digests = digests

    @classmethod
    def of_file(cls, path: Path) -> "Keys":
        """Read a file that only its owner may read.

        Raises:
            ConfigError: it cannot be read, others may read it, or a line is wrong; the message has
                path and line, never a secret.
        """
        return cls(path, _parse(path, _read(path)))

    def read_again(self) -> None:
        """Take the keys that the file has now; after an error, those of before stay.

        Raises:
            ConfigError: as `of_file`.
        """
        self._digests = _parse(self._path, _read(self._path))

    @property
    def names(self) -> list[str]:
        """The names of all keys, in the order of the file."""
        return list(self._digests)

    def find(self, presented: str) -> str | None:
        """The name of the key with this secret, or None.

        Takes equally long whichever key it is: all are compared, each in constant time.
        """
        digest = _digest(presented)
        found = None
        for name, known in self._digests.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _read(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would block
            path.stat()
            raise ConfigError(f"{path}: not a regular file; name a file of API keys")
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: API keys cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise ConfigError(
            f"{path}: other users may read or change the API keys (mode {mode:04o}); "
            f"run: chmod 600 {path}"
        )
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: longer than 1 MiB; that is no file of API keys")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8") from None


def _parse(path: Path, text: str) -> dict[str, bytes]:
    digests: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{path}:{number}"
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, secret = line.partition(":")
        if not colon:
            raise ConfigError(f"{where}: expected name:secret")
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: a key's name is 1 to 64 letters, digits, '_', '.' or '-'")
        if not _SECRET.fullmatch(secret):
            raise ConfigError(f"{where}: a secret is printable ASCII without spaces")
        if len(secret) < MIN_SECRET:
            raise ConfigError(
                f"{where}: the secret of {name} is shorter than {MIN_SECRET} characters; "
                "make one with: openssl rand -hex 32"
            )
        if name in digests:
            raise ConfigError(f"{where}: a second key is named {name}; give each its own name")
        digest = _digest(secret)
        if digest in digests.values():
            raise ConfigError(f"{where}: {name} has the secret of another key; give it its own")
        digests[name] = digest
    if not digests:
        raise ConfigError(f"{path}: no API key in it; write lines name:secret")
    return digests
