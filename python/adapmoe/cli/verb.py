# SPDX-License-Identifier: Apache-2.0
"""How commands show their help: plain text, options in groups, one line each where they fit."""

import inspect
import re
from typing import Any

import typer
import typer.core

from adapmoe.cli.failures import USAGE_ERROR

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_LAST = ("Prompt and sampling", "Memory", "Output", "Advanced")  # after groups of other names
_HEADINGS = {"Advanced": "Advanced (of several words, the first is the default)"}
_UNLISTED = ("help", "show_completion")
_NAME_WIDTH = 34
# As versions of typer write the kinds of values.
_KIND = re.compile(r"<([^>]+)>|\b(INTEGER|FLOAT)(?: RANGE)?\b")
_KINDS = {"path": "PATH", "str": "TEXT", "int": "N", "float": "X", "integer": "N"}


class Verb(typer.core.TyperCommand):
    """One verb; without any argument it explains itself by examples."""

    # The classes of click are its own or typer's, depending on the version of typer.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say how to begin where a needed argument is missing and nothing else was typed."""
        needed = any(parameter.required for parameter in self.params)
        if needed and not args and not ctx.resilient_parsing:
            formatter = ctx.make_formatter()
            self.format_usage(ctx, formatter)
            self.format_help_text(ctx, formatter)
            hint = f"\n{ctx.command_path} --help lists all options."
            typer.echo(formatter.getvalue() + hint, err=True)
            raise typer.Exit(USAGE_ERROR)
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Arguments by their names alone."""
        found = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        return ["[OPTIONS]", *map(_argument, found)]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Wrap paragraphs; keep examples, which are indented, as they are."""
        write_text(self.help or "", formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List the options by group."""
        write_options(self.get_params(ctx), ctx, formatter)


def write_text(text: str, formatter: Any) -> None:
    """Write the text of a docstring."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        formatter.write("\n")
        if "\n  " in paragraph:
            formatter.write(f"{paragraph}\n")
        else:
            formatter.write_text(" ".join(paragraph.split()))


def write_options(parameters: list[Any], ctx: Any, formatter: Any) -> None:
    """Write arguments and options, each group under its heading."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is None or parameter.name in _UNLISTED:
            continue
        argument = parameter.param_type_name == "argument"
        name = _argument(parameter) if argument else _short_name(record[0])
        group = getattr(parameter, "rich_help_panel", None) or (
            "Arguments" if argument else "Options"
        )
        groups.setdefault(group, []).append((name, record[1].replace("  [required]", "")))
    for group in sorted(groups, key=lambda name: _LAST.index(name) if name in _LAST else -1):
        with formatter.section(_HEADINGS.get(group, group)):
            formatter.write_dl(groups[group], col_max=_NAME_WIDTH)


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required else f"[{name.strip('[]')}]"


def _short_name(name: str) -> str:
    """--[no-]exact for "--exact / --no-exact", --jobs N for "--jobs <int>"."""
    name = _KIND.sub(lambda match: _kind(match[1] or match[2]), name)
    first, _, second = name.partition(" / ")
    return f"--[no-]{first[2:]}" if second == f"--no-{first[2:]}" else name


def _kind(name: str) -> str:
    return _KINDS.get(name.lower().removesuffix(" range"), name)
