# SPDX-License-Identifier: Apache-2.0
"""The server's configuration: a TOML file, the environment, flags; the later, the stronger.

Keys of the file are the fields of `Settings` and `ServeSettings`, and `pack`; the environment has
them as `ADAPMOE_<KEY>`. An empty variable takes back what the file says.
"""

import difflib
import importlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from adapmoe import checks
from adapmoe.errors import AdapmoeError
from adapmoe.serve.settings import SERVER, ServeSettings
from adapmoe.settings import Settings

PREFIX = "ADAPMOE_"
DEFAULT = "default"

_NOT_OURS = ("ADAPMOE_TRACEBACK",)  # read by the command line itself
# What Kubernetes puts into every container for a service called adapmoe, or adapmoe-something.
_KUBERNETES = re.compile(
    r"ADAPMOE(_[A-Z0-9_]+)?_("
    r"SERVICE_HOST=[0-9a-f.:]+|"
    r"SERVICE_PORT(_[A-Z0-9_]+)?=[0-9]+|"
    r"PORT(_[0-9]+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://[0-9a-f.:\[\]]+|"
    r"PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO=(tcp|udp|sctp)|PORT=[0-9]+|ADDR=[0-9a-f.:]+))"
)
_MAX_FILE_BYTES = 1 << 20
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")
_PATHS = ("pack", "keys", "tls_key", "tls_cert")  # in a file, they are relative to its folder
_RIVALS = ("memory", "experts_resident")  # one of them; the stronger place decides which
_NO_USE = ("timeline",)  # nothing of a server shows one
_DEFAULTS = {"max_sequences": 4, "verbose": True}  # where a server wants another than a library


class ConfigError(AdapmoeError):
    """A file, variable or flag that configures the server is wrong; the message names it."""


@dataclass(frozen=True)
class Key:
    """One thing that can be configured.

    Attributes:
        kind: the type of the value.
        default: what holds where it is not given; None: nothing.
        check: `check(name, value)` raises TypeError or ValueError.
        facts: help, group and metavar, as `settings.option` has them.
    """

    kind: Any
    default: Any
    check: Callable[[str, Any], Any]
    facts: Mapping[str, Any]


def _keys_of(owner: type) -> dict[str, Key]:
    hints = get_type_hints(owner)
    return {
        each.name: Key(
            hints[each.name],
            _DEFAULTS.get(each.name, each.default),
            each.metadata["check"],
            each.metadata,
        )
        for each in fields(owner)
        if each.name not in _NO_USE
    }


_PACK = Key(
    str,
    None,
    checks.text,
    {"help": "The pack, a directory NAME.adapmoe.", "group": SERVER, "metavar": "PACK"},
)
SERVE_KEYS = _keys_of(ServeSettings)
SETTINGS_KEYS = _keys_of(Settings)
KEYS = {"pack": _PACK, **SERVE_KEYS, **SETTINGS_KEYS}


@dataclass(frozen=True)
class Config:
    """Everything the server was told.

    Attributes:
        pack: the folder of the pack.
        settings: how it is opened.
        serve: how it is served.
        sources: {key: where its value is from} for each key that was given.
    """

    pack: Path
    settings: Settings
    serve: ServeSettings
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """What clients call the model."""
        return self.serve.model_name or self.pack.resolve().name.removesuffix(".adapmoe")


@dataclass(frozen=True)
class _Given:
    """A value, what messages call it, and where it is from."""

    value: Any
    name: str
    source: str


def read_config(
    path: Path | None, environment: Mapping[str, str], flags: Mapping[str, object]
) -> Config:
    """Put together what was given in three places.

    Args:
        path: a TOML file, or None.
        environment: variables; those that begin with ADAPMOE_ count, empty ones as not given.
        flags: by key; None and [] count as not given.

    Raises:
        ConfigError: an unknown key, a wrong value, no pack, or a file that cannot be read.
    """
    given = _stronger_last(
        {} if path is None else _from_file(path), _from_environment(environment), _from_flags(flags)
    )
    for key, one in given.items():
        try:
            KEYS[key].check(one.name, one.value)
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from None
    values = {key: each.default for key, each in KEYS.items()}
    values |= {key: one.value for key, one in given.items()}
    if not values["pack"]:
        raise ConfigError(
            f"no pack is named: give PACK, the variable {PREFIX}PACK, or `pack` in the file"
        )
    try:
        return Config(
            Path(values["pack"]),
            Settings(**{key: values[key] for key in SETTINGS_KEYS}),
            ServeSettings(**{key: values[key] for key in SERVE_KEYS}),
            {key: one.source for key, one in given.items()},
        )
    except ValueError as error:  # two that exclude each other
        raise ConfigError(str(error)) from None


def _stronger_last(*places: Mapping[str, _Given | None]) -> dict[str, _Given]:
    """What holds of all that was given; None takes back what weaker places gave."""
    found: dict[str, _Given | None] = {}
    for place in places:
        if any(place.get(key) for key in _RIVALS):
            for key in _RIVALS:
                found.pop(key, None)
        found |= place
    return {key: one for key, one in found.items() if one is not None}


def _from_file(path: Path) -> dict[str, _Given]:
    found = {}
    for key, value in _read_toml(path).items():
        if key not in KEYS:
            raise ConfigError(f"{path}: {key!r} is not a key of the server; {_advice(key, '')}")
        if key in _PATHS and isinstance(value, str) and value:
            value = str(path.parent / value)
        found[key] = _Given(value, f"{path}: {key}", str(path))
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError:
        raise ConfigError(
            f"{path}: reading TOML needs the Python package 'tomli', which is missing: "
            "pip install 'adapmoe[serve]'"
        ) from None
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"{path}: longer than 1 MiB; that is no configuration of a server")
    try:
        found: dict[str, Any] = toml.loads(data.decode())
    except (ValueError, RecursionError) as error:  # the first: not UTF-8, or not TOML
        raise ConfigError(f"{path}: not a TOML file: {error}") from None
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, _Given | None]:
    found: dict[str, _Given | None] = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX) or variable in _NOT_OURS:
            continue
        if _KUBERNETES.fullmatch(f"{variable}={text}"):
            continue
        key = variable.removeprefix(PREFIX).lower()
        if key not in KEYS or variable != PREFIX + key.upper():
            raise ConfigError(
                f"the environment variable {variable} is not one of the server; unset it, or: "
                f"{_advice(key, PREFIX)}"
            )
        found[key] = None
        if text:
            found[key] = _Given(_parsed(variable, text, KEYS[key].kind), variable, variable)
    return found


def _from_flags(flags: Mapping[str, object]) -> dict[str, _Given]:
    found = {}
    for key, value in flags.items():
        if value is not None and value != []:
            name = "PACK" if key == "pack" else "--" + key.replace("_", "-")
            found[key] = _Given(value, name, name)
    return found


def _parsed(name: str, text: str, kind: Any) -> Any:
    """What the text of a variable means where a value of type `kind` is wanted."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if str in members:  # sizes and shares are checked as text
        return text
    if bool in members:
        word = text.strip().lower()
        if word not in (*_TRUE, *_FALSE):
            raise ConfigError(f"{name} must be true or false, not {text!r}")
        return word in _TRUE
    if int in members or float in members:
        number = int if int in members else float
        try:
            return number(text)
        except ValueError:
            expected = "a whole number" if number is int else "a number"
            raise ConfigError(f"{name} must be {expected}, not {text!r}") from None
    [item] = get_args(members[0])  # Sequence[item]
    return [_parsed(name, part.strip(), item) for part in text.split(",") if part.strip()]


def _advice(word: str, prefix: str) -> str:
    """Which key was perhaps meant, else all of them; with a prefix, as variables."""
    alike = difflib.get_close_matches(word.replace("-", "_").lower(), KEYS, 1, 0.6)
    shown = [prefix + (key.upper() if prefix else key) for key in alike or sorted(KEYS)]
    return f"did you mean {shown[0]}?" if alike else f"known are {', '.join(shown)}"


def describe_config(config: Config) -> str:
    """The configuration as a TOML file, every key with its help and where its value is from."""
    values = {"pack": str(config.pack), **vars(config.serve), **vars(config.settings)}
    lines: list[str] = []
    heading = ""
    for key, each in sorted(KEYS.items(), key=lambda item: _order(item[1])):
        if each.facts["group"] != heading:
            heading = each.facts["group"]
            lines += ["", f"# {heading}"]
        value = values[key]
        source = config.sources.get(key, DEFAULT)
        lines += ["", f"# {each.facts['help']}", f"# From: {_one_line(source)}"]
        lines.append(f"# {key} =" if value is None else f"{key} = {_toml(value)}")
    return "\n".join(lines[1:]) + "\n"


def _order(key: Key) -> int:
    """Keys of a group stand together, in the order in which the groups are first named."""
    groups = list(dict.fromkeys(each.facts["group"] for each in KEYS.values()))
    return groups.index(key.facts["group"])


def _toml(value: Any) -> str:
    """A string, number, boolean or list of them in TOML."""
    if isinstance(value, str):
        quoted = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return quoted.replace("\x7f", "\\u007f")  # the one that JSON may have and TOML may not
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
