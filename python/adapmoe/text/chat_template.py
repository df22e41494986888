# SPDX-License-Identifier: Apache-2.0
"""Chat templates: from messages to the text that the model was trained on."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from adapmoe import checks
from adapmoe.errors import ChatTemplateError, PackError
from adapmoe.machine.files import read_json
from adapmoe.text.token_files import SPECIAL_TOKEN_NAMES, special_tokens

Message = Mapping[str, Any]

_TOOL_TEMPLATE = "tool_use"  # the name that transformers looks for
_OURS = frozenset({"messages", "tools", "documents", "add_generation_prompt", *SPECIAL_TOKEN_NAMES})


class ChatTemplates:
    """The chat templates of a pack, by name; the usual one is "default"."""

    def __init__(
        self, pack: Path, templates: Mapping[str, str], special_tokens: Mapping[str, str]
    ) -> None:
        """Use `from_pack`.

        Args:
            pack: its directory, for messages.
            templates: Jinja texts; may be empty.
            special_tokens: the text of `bos_token` and so on, which templates refer to.
        """
        self._pack = pack
        self._templates = dict(templates)
        self._special_tokens = dict(special_tokens)

    @classmethod
    def from_pack(cls, directory: str | Path) -> "ChatTemplates":
        """Read chat_template.jinja, or else tokenizer_config.json, and the special tokens.

        Raises:
            PackError: a file cannot be used.
        """
        directory = Path(directory)
        config = read_json(directory / "tokenizer_config.json")
        tokens = {name: token.text for name, token in special_tokens(directory).items()}
        return cls(directory, _templates(directory, config), tokens)

    def render(
        self,
        messages: Sequence[Message],
        chat_template: str | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """The conversation as text, ending where the assistant's next answer begins.

        Args:
            messages: see `check_messages`.
            chat_template: a Jinja text, or the name of one of the pack's; None: see `find`.
            tools: what the model may call, as transformers takes it:
                `{"type": "function", "function": {"name": ..., "parameters": ...}}`.
            variables: what else the template can refer to, such as `enable_thinking`.

        Raises:
            ChatTemplateError: there is no template, it takes no tools, or it fails or refuses these
                messages.
            TypeError, ValueError: not messages, see `check_messages`; tools or variables are not
                what JSON can hold, or variables have the name of something else.
        """
        plain = check_messages(messages)
        named = _check_variables(variables)
        offered = None if tools is None else _check_tools(tools)
        source = self.find(chat_template, tools=bool(offered))
        if offered and not re.search(r"\btools\b", source):
            raise ChatTemplateError(
                f"{self._pack}: the model's chat template takes no tools; leave them out, or pass "
                "another template as chat_template="
            )
        from adapmoe.text import jinja_sandbox  # most programs do not chat

        try:
            text = jinja_sandbox.render(
                source,
                {**named, **self._special_tokens, "messages": plain, "tools": offered}
                | {"documents": None, "add_generation_prompt": True},
            )
            text.encode()  # a call's arguments, for example, may hold half a surrogate pair
        except Exception as error:  # a template can raise anything
            raise ChatTemplateError(
                f"{self._pack}: the chat template failed: {type(error).__name__}: {error}; "
                "change the messages, or pass another template as chat_template="
            ) from error
        if not text:
            raise ChatTemplateError(
                f"{self._pack}: the chat template makes no text of these messages; pass another "
                "one as chat_template= (--chat-template on the command line)"
            )
        return text

    def find(self, chat_template: str | None = None, *, tools: bool = False) -> str:
        """The Jinja text that `render` would use.

        Without `chat_template` that is "default", or with tools "tool_use" where the pack has one.

        Raises:
            ChatTemplateError: there is none.
        """
        wanted = _TOOL_TEMPLATE if tools and _TOOL_TEMPLATE in self._templates else "default"
        if chat_template is not None:
            wanted = checks.text("chat_template", chat_template)
        if wanted in self._templates:
            return self._templates[wanted]
        if chat_template is not None and ("{{" in chat_template or "{%" in chat_template):
            return chat_template
        known = ", ".join(sorted(self._templates)) or "none"
        raise ChatTemplateError(
            f"{self._pack}: the pack has no chat template named {wanted!r} (it has: {known}); pass "
            "one as chat_template= (--chat-template on the command line), in Jinja, from "
            "the model's card, or use generate"
        )


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Check a conversation and copy it into plain lists, dicts and strings.

    Every message is a mapping with `role`, a non-empty string, and `content`, a string or a list of
    `{"type": "text", "text": ...}`; other keys that JSON can hold are passed on to the template.
    Keys with the value None are dropped; `content` may be missing where there are `tool_calls`.

    Raises:
        TypeError: something has another type.
        ValueError: there are no messages, a role is empty, or JSON cannot hold a value.
    """
    example = 'a non-empty list such as [{"role": "user", "content": "Hello"}]'
    listed = checks.items("messages", messages, example)
    if not listed:
        raise checks.out_of_range("messages", example, messages)
    return [_check_message(f"messages[{index}]", message) for index, message in enumerate(listed)]


def _check_message(where: str, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise checks.wrong_type(where, "a mapping with role and content", message)
    present = {key: value for key, value in message.items() if value is not None}
    plain: dict[str, Any] = _copied(where, present)
    role, content = plain.get("role"), plain.get("content")
    if not checks.text(f"{where}['role']", role):
        raise checks.out_of_range(f"{where}['role']", "a non-empty string", role)
    if isinstance(content, str):
        checks.text(f"{where}['content']", content)
    elif not _are_parts(content) and not (content is None and "tool_calls" in plain):
        raise checks.wrong_type(f"{where}['content']", "a string or a list of typed parts", content)
    return plain


def _check_tools(tools: Sequence[Mapping[str, Any]]) -> list[Any]:
    listed = checks.items("tools", tools, "a list of mappings")
    for index, tool in enumerate(listed):
        if not isinstance(tool, Mapping):
            raise checks.wrong_type(f"tools[{index}]", "a mapping", tool)
    return [_copied(f"tools[{index}]", dict(tool)) for index, tool in enumerate(listed)]


def _check_variables(variables: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(variables, Mapping):
        raise checks.wrong_type("variables", "a mapping from names to values", variables)
    for name in variables:
        if checks.text("a name in variables", name) in _OURS:
            raise ValueError(f"variables may not set {name!r}, which the messages or the pack give")
    return {name: _copied(f"variables[{name!r}]", value) for name, value in variables.items()}


def _copied(where: str, value: object) -> Any:
    """A copy in plain lists, dicts and strings, so that a template gets no other object."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} must hold only what JSON can hold: {error}") from error


def _are_parts(content: object) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
    )


def _templates(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    path = directory / "chat_template.jinja"
    if path.exists():
        try:
            return {"default": path.read_text(encoding="utf-8")}
        except (OSError, ValueError) as error:
            raise PackError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    found = config.get("chat_template")
    if found is None:
        return {}
    try:
        named = (
            {"default": found}
            if isinstance(found, str)
            else {t["name"]: t["template"] for t in found}
        )
    except (TypeError, KeyError):
        named = {}
    if not named or not all(isinstance(text, str) for pair in named.items() for text in pair):
        raise PackError(
            f"{directory / 'tokenizer_config.json'}: chat_template must be a string or a list of "
            '{"name": ..., "template": ...}'
        )
    return named
