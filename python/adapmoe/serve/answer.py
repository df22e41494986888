# SPDX-License-Identifier: Apache-2.0
"""From the text that a model writes to the parts of an answer: reasoning, text, tool calls."""

from collections.abc import Callable
from dataclasses import dataclass

from adapmoe.serve.json_scanner import MalformedError
from adapmoe.serve.tool_calls import CallReader, CallSyntax, ToolCall

# What models put around their reasoning, as their chat templates write it.
_REASONING_MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
_DROPPED_NEWLINES = 2  # after a reasoning mark


@dataclass(frozen=True)
class TextPart:
    """A piece of the answer itself."""

    text: str


@dataclass(frozen=True)
class ReasoningPart:
    """A piece of what the model thought before the answer."""

    text: str


AnswerPart = TextPart | ReasoningPart | ToolCall


@dataclass(frozen=True)
class AnswerStyle:
    """How a model's answers are written, read from its chat template.

    Attributes:
        syntax: of tool calls; None: the template has none that we know.
        reasoning: the marks before and after it; None: the template has none.
        shown_special: special tokens whose text `AnswerParser` needs to see.
    """

    syntax: CallSyntax | None
    reasoning: tuple[str, str] | None
    shown_special: frozenset[str]

    @classmethod
    def of(cls, template: str) -> "AnswerStyle":
        """The style of a chat template, a Jinja text.

        Many templates name only the mark after the reasoning, to cut old reasoning away.
        """
        syntax = CallSyntax.of(template)
        reasoning = next((marks for marks in _REASONING_MARKS if marks[1] in template), None)
        shown = frozenset(reasoning or ()).union(syntax.marks if syntax else ())
        return cls(syntax, reasoning, shown)


class AnswerParser:
    """Takes one answer piece by piece and tells its parts apart.

    The parts, with neighbours of the same kind joined, do not depend on how the text is cut into
    pieces. Text is held back only as long as it may become a mark or a call.

    - Reasoning stands at the start of the answer, or the prompt has begun it. Its marks are dropped
      with up to two line ends after each.
    - What begins as a tool call but is none comes back as text, as the model wrote it.
    - White space alone before, between and after tool calls is dropped.
    """

    def __init__(self, style: AnswerStyle, *, tools: bool, prompt: str) -> None:
        """Before the first piece.

        Args:
            style: how the model writes.
            tools: whether calls are looked for; otherwise they are text.
            prompt: the rendered conversation. Where it ends with the mark that begins reasoning,
                and perhaps white space, the answer goes on in it.
        """
        self._syntax = style.syntax if tools else None
        self._marks = style.reasoning or ("", "")
        self._parts: list[AnswerPart] = []
        self._held = ""  # what is not decided yet
        self._newlines = 0  # so many may still be dropped
        # Nothing but white space since the start, the reasoning or the last call.
        self._is_blank = self._syntax is not None
        self._after_call = False
        self._call_start = 0  # of a call's own text in `_held`, after white space and marker
        self._call_read = 0  # end of what `_reader` has taken of `_held`
        self._reader: CallReader | None = None
        self._step: Callable[[bool], bool] = self._text
        if style.reasoning is not None:
            self._step = self._start
            if prompt.rstrip().endswith(self._marks[0]):
                self._begin_reasoning()

    def push(self, text: str) -> list[AnswerPart]:
        """Take more text; return the parts that it decides, perhaps none. No text is empty."""
        self._held += text
        return self._run(last=False)

    def finish(self) -> list[AnswerPart]:
        """The answer ends here: return what was held back."""
        return self._run(last=True)

    def _run(self, *, last: bool) -> list[AnswerPart]:
        """Each step handles one kind of text and returns whether another kind follows."""
        while self._step(last):
            pass
        parts, self._parts = self._parts, []
        return parts

    def _start(self, last: bool) -> bool:
        """Before anything but white space."""
        text = self._held.lstrip()
        if text.startswith(self._marks[0]):
            self._held = text[len(self._marks[0]) :]
            self._begin_reasoning()
            return True
        if last or not self._marks[0].startswith(text):
            self._step = self._text
            return True
        return False

    def _begin_reasoning(self) -> None:
        self._newlines = _DROPPED_NEWLINES
        self._step = self._reasoning

    def _reasoning(self, last: bool) -> bool:
        self._drop_newlines()
        end = self._marks[1]
        at = self._held.find(end)
        self._emit(ReasoningPart, at if at >= 0 else self._certain(end, last))
        if at < 0:
            return False
        self._held = self._held[len(end) :]
        self._newlines = _DROPPED_NEWLINES
        self._step = self._text
        return True

    def _text(self, last: bool) -> bool:
        self._drop_newlines()
        marker = "" if self._syntax is None else self._syntax.marker
        at = self._held.find(marker) if marker else -1
        if at >= 0:
            if not self._is_blank or self._held[:at].strip():
                self._emit_text(at)
                at = 0
            self._begin_call(at + len(marker))
            return True
        length = self._certain(marker, last)
        if self._is_blank and not self._held[:length].strip():
            if not last:
                return False  # a call may follow the white space
            if self._after_call:
                self._held, length = "", 0
        self._emit_text(length)
        return False

    def _begin_call(self, start: int) -> None:
        """`start`: where the text after the marker begins in `_held`."""
        assert self._syntax is not None
        self._reader = CallReader(self._syntax)
        self._call_start = self._call_read = start
        self._step = self._call

    def _call(self, last: bool) -> bool:
        assert self._reader is not None
        try:
            for at in range(self._call_read, len(self._held)):
                if calls := self._reader.push(self._held[at]):
                    self._end_call(calls, at + 1)
                    return True
            self._call_read = len(self._held)
            if last:
                self._end_call(self._reader.finish(), len(self._held))
        except MalformedError:  # No call. There may be one in what follows the marker.
            self._emit_text(self._call_start)
            self._step = self._text
            return True
        return last

    def _end_call(self, calls: list[ToolCall], end: int) -> None:
        """`end`: of their text in `_held`."""
        self._parts += calls
        self._held = self._held[end:]
        self._is_blank = self._after_call = True
        self._step = self._text

    def _emit_text(self, length: int) -> None:
        self._is_blank = self._is_blank and length == 0
        self._emit(TextPart, length)

    def _emit(self, kind: type[TextPart] | type[ReasoningPart], length: int) -> None:
        """Return the first `length` characters that are held as a part."""
        text, self._held = self._held[:length], self._held[length:]
        before = self._parts[-1] if self._parts else None
        if text and isinstance(before, kind):
            self._parts[-1] = kind(before.text + text)
        elif text:
            self._parts.append(kind(text))

    def _certain(self, mark: str, last: bool) -> int:
        """How many characters that are held cannot be the beginning of `mark`."""
        most = 0 if last else min(len(mark) - 1, len(self._held))
        part = next((n for n in range(most, 0, -1) if self._held.endswith(mark[:n])), 0)
        return len(self._held) - part

    def _drop_newlines(self) -> None:
        while self._newlines and self._held:
            is_newline = self._held[0] == "\n"
            self._newlines = self._newlines - 1 if is_newline else 0
            self._held = self._held[is_newline:]
