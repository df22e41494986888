# SPDX-License-Identifier: Apache-2.0
"""From messages to the text that the model was trained to see."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapmoe import checks
from adapmoe.errors import ChatTemplateError, PackError
from adapmoe.machine.files import read_json
from adapmoe.text.token_files import special_tokens

Message = Mapping[str, Any]


class ChatTemplates:
    """The chat templates of a pack, by name; the usual one is "default"."""

    def __init__(
        self, pack: Path, templates: Mapping[str, str], special_tokens: Mapping[str, str]
    ) -> None:
        """Use `from_pack`.

        Args:
            pack: its directory, for messages.
            templates: Jinja texts; may be empty.
            special_tokens: what templates write as `bos_token` and so on.
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

    def render(self, messages: Sequence[Message], chat_template: str | None = None) -> str:
        """The conversation as text, ending where the assistant's next answer begins.

        Args:
            messages: see `check_messages`.
            chat_template: a Jinja text, or the name of one of the pack's; None: "default".

        Raises:
            ChatTemplateError: there is no template, or it fails or refuses these messages.
            TypeError, ValueError: not messages; see `check_messages`.
        """
        plain = check_messages(messages)
        source = self.find(chat_template)
        from adapmoe.text import jinja_sandbox  # most programs do not chat

        try:
            text = jinja_sandbox.render(
                source,
                {**self._special_tokens, "messages": plain, "tools": None, "documents": None}
                | {"add_generation_prompt": True},
            )
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

    def find(self, chat_template: str | None = None) -> str:
        """The Jinja text that `render` would use. Raises ChatTemplateError if there is none."""
        wanted = "default"
        if chat_template is not None:
            wanted = checks.text("chat_template", chat_template)
        if wanted in self._templates:
            return self._templates[wanted]
        if chat_template is not None and ("{{" in chat_template or "{%" in chat_template):
            return chat_template
        known = ", ".join(sorted(self._templates)) or "none"
        raise ChatTemplateError(
            f"{self._pack}: the pack has no chat template named {wanted!r} (it has: {known}); pass "
            "one as chat_template= (--chat-template on the command line), Jinja text as the "
            "model's card shows it, or use generate"
        )


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Check a conversation and copy it into plain lists, dicts and strings.

    Every message is a mapping with `role`, a non-empty string, and `content`, a string or a list of
    `{"type": "text", "text": ...}`; other keys that JSON can hold are passed on to the template.
    Keys with the value None are dropped; `content` may be missing where there are `tool_calls`.

    Raises:
        TypeError: something of another type.
        ValueError: no messages, an empty role, or what JSON cannot hold.
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
    try:
        plain: dict[str, Any] = json.loads(json.dumps(present, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} must hold nothing but what JSON can: {error}") from error
    role, content = plain.get("role"), plain.get("content")
    if not checks.text(f"{where}['role']", role):
        raise checks.out_of_range(f"{where}['role']", "a non-empty string", role)
    if isinstance(content, str):
        checks.text(f"{where}['content']", content)
    elif not _are_parts(content) and not (content is None and "tool_calls" in plain):
        raise checks.wrong_type(f"{where}['content']", "a string or a list of typed parts", content)
    return plain


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
