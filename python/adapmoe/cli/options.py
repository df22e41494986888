# SPDX-License-Identifier: Apache-2.0
"""Options of several verbs. Those of settings and SamplingParams are derived from their fields."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from adapmoe.cli.failures import usage_errors
from adapmoe.cli.names import option_name
from adapmoe.generation.params import SamplingParams
from adapmoe.machine.files import check_writable
from adapmoe.serve.config import KEYS
from adapmoe.settings import OUTPUT, Settings

PROMPT = "Prompt and sampling"  # a group of help

_VERBOSE = True  # the default on the command line


def _writable(context: typer.Context, path: Path | None) -> Path | None:
    """Refuse before anything runs, and leave files alone while the shell completes a line."""
    if path is not None and not context.resilient_parsing:
        try:
            check_writable(path)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    return path


PackArgument = Annotated[
    Path,
    typer.Argument(metavar="PACK", help="The pack, a directory NAME.adapmoe.", show_default=False),
]
TraceOption = Annotated[
    Path | None,
    typer.Option(
        callback=_writable,
        metavar="FILE",
        help="Record which experts each layer needs, for `adapmoe replay`.",
        rich_help_panel=OUTPUT,
    ),
]
TimelineOption = Annotated[
    Path | None,
    typer.Option(
        callback=_writable,
        metavar="FILE",
        help="Write who was busy when, for chrome://tracing or ui.perfetto.dev.",
        rich_help_panel=OUTPUT,
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object to stdout and nothing else.",
        rich_help_panel=OUTPUT,
    ),
]


@dataclass(frozen=True)
class _Option:
    """How a field looks on the command line."""

    help: str
    group: str = PROMPT
    metavar: str = ""
    short: str = ""
    choices: Collection[str] = ()


_SAMPLING = {
    "max_tokens": _Option("Most tokens to generate; default: 256, or as fit.", short="-n"),
    "temperature": _Option("0 takes the most likely token."),
    "top_k": _Option("Sample among the N most likely tokens; 0: off."),
    "top_p": _Option("Sample among the likeliest tokens up to X in sum; 1: off."),
    "min_p": _Option("Sample tokens at least X times as likely as the likeliest; 0: off."),
    "repetition_penalty": _Option("Above 1: less of what is there already; 1: off."),
    "presence_penalty": _Option("Subtracted from logits of tokens generated; 0: off."),
    "frequency_penalty": _Option("Subtracted for every time generated; 0: off."),
    "seed": _Option("Makes sampling repeatable."),
    "stop": _Option("End at this text; may be repeated."),
    "stop_token_ids": _Option("End at the token with this id; may be repeated."),
    "ignore_eos": _Option("Go on after an end-of-sequence token."),
    "logprobs": _Option("With --json: log-probabilities, also of the N likeliest.", group=OUTPUT),
}


class GivenOptions(dict[str, Any]):
    """Those options of the server that were typed, by key: others are in its file, for example."""


def _setting(facts: Mapping[str, Any]) -> _Option:
    choices = getattr(facts["check"], "keywords", {}).get("known", ())
    return _Option(facts["help"], facts["group"], facts["metavar"], "", choices)


_TABLES = {
    Settings: {each.name: _setting(each.metadata) for each in fields(Settings)},
    SamplingParams: _SAMPLING,
    GivenOptions: {name: _setting(key.facts) for name, key in KEYS.items() if name != "pack"},
}


def with_options(
    *, only: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of its parameters of type Settings, SamplingParams or GivenOptions.

    An option that the verb declares itself, by the name of a field, replaces the derived one.

    Args:
        only: of the fields, these; empty: all.
        without: of the fields, not these.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(verb).parameters
        derived: dict[str, tuple[type, list[str]]] = {}
        shown: list[inspect.Parameter] = []
        for parameter in own.values():
            kind = parameter.annotation  # get_type_hints() of Python 3.10 adds None to some
            if kind not in _TABLES:
                shown.append(parameter)
                continue
            names = [
                name
                for name in _TABLES[kind]
                if name not in own and name not in without and (name in only or not only)
            ]
            derived[parameter.name] = (kind, names)
            shown += [_parameter(kind, name) for name in names]

        @functools.wraps(verb)
        def wrapper(**given: Any) -> None:
            with usage_errors():
                made = {
                    parameter: kind(**_collect(given, names))
                    for parameter, (kind, names) in derived.items()
                }
            verb(**given, **made)

        keyword = inspect.Parameter.KEYWORD_ONLY
        wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=keyword) for parameter in shown]
        )
        wrapper.__annotations__ = {each.name: each.annotation for each in shown}
        return wrapper

    return decorate


def _collect(given: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Take these out of what typer gave; an option that was not given keeps its default."""
    values = {name: given.pop(name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, [])}


def _parameter(kind: type, name: str) -> inspect.Parameter:
    """The parameter from which typer makes the option of one field."""
    hint, default = _declared(kind, name)
    shape, table = _option_type(hint), _TABLES[kind][name]
    if get_origin(shape) is list:
        shape, default = shape | None, None
    flags = f"{option_name(name)}/--no-{option_name(name)[2:]}" if shape is bool else None
    if name == "ignore_eos":
        flags = option_name(name)
    words = [word for word in (table.short, flags or option_name(name)) if word]
    # Of several words, the first is the default, and help lists them.
    told = kind is SamplingParams or table.choices or isinstance(default, str | bool | None)
    help = table.help
    if kind is GivenOptions:  # nothing holds unless it is typed; help tells what holds then
        help = help if told else f"{help}  [default: {default:g}]"
        shape, default, told = shape | None, None, True
    option = typer.Option(
        *words,
        help=help,
        metavar=table.metavar or _metavar(shape),
        rich_help_panel=table.group,
        show_default=not told,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[shape, option]
    )


def _declared(kind: type, name: str) -> tuple[Any, Any]:
    """Type and default of a field."""
    if kind is GivenOptions:
        return KEYS[name].kind, KEYS[name].default
    [default] = [each.default for each in fields(kind) if each.name == name]
    return get_type_hints(kind)[name], _VERBOSE if name == "verbose" else default


def _option_type(hint: Any) -> Any:
    """What the words of a command line become: text where there is a choice, lists of one type."""
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for member in members:
        if get_origin(member) is not None:  # Sequence[X]
            return list[get_args(member)[0]]  # type: ignore[misc]
    if str in members:
        return str | None if type(None) in members else str
    return hint


def _metavar(shape: Any) -> str | None:
    members = get_args(shape) or (shape,)
    inner = [each for member in members for each in get_args(member) or (member,)]
    if bool in inner:
        return None
    return "N" if int in inner else "X" if float in inner else "TEXT"
