# SPDX-License-Identifier: Apache-2.0
"""Settings and sampling parameters by their names on the command line."""

import re
from dataclasses import fields

from adapmoe.generation.params import SamplingParams
from adapmoe.settings import Settings

_FIELDS = [each.name for each in (*fields(Settings), *fields(SamplingParams))]
_NAMES = "|".join(sorted(_FIELDS, key=len, reverse=True))
_UNMISTAKABLE = "|".join(name for name in _FIELDS if "_" in name)
# Not inside a path or a longer word.
_ASSIGNED = re.compile(rf"(?<![\w/.-])({_NAMES})=(\"?)([\w.%]+)\2")
_MENTIONED = re.compile(rf"^({_NAMES})(?=[ :\[])|(?<![\w/.-])({_UNMISTAKABLE})(?![\w/-]|\.\w)")


def option_name(field: str) -> str:
    """The option that gives a field of Settings or SamplingParams, such as --read-depth."""
    return "--stop-id" if field == "stop_token_ids" else "--" + field.replace("_", "-")


def as_typed(message: str) -> str:
    """A message of the library with its parameters named as options."""
    message = _ASSIGNED.sub(lambda match: _assignment(match[1], match[3]), message)
    return _MENTIONED.sub(lambda match: option_name(match[1] or match[2]), message)


def _assignment(field: str, value: str) -> str:
    if value in ("True", "False"):
        option = option_name(field)
        return option if value == "True" else f"--no-{option[2:]}"
    return f"{option_name(field)} {value}"
