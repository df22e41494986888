# SPDX-License-Identifier: Apache-2.0
"""Constrained decoding: answers that must be JSON, fit a schema, or call a tool."""

import functools
import json
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adapmoe.generation.params import LogitsProcessor
from adapmoe.machine.files import read_json
from adapmoe.serve.grammar import ConstraintError as ConstraintError
from adapmoe.serve.grammar import call_grammar, choose_functions, schema_grammar, schema_text
from adapmoe.serve.tool_calls import CallSyntax
from adapmoe.text.token_files import CONFIG, read_backend, special_tokens

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT_GRAMMARS = 16
_PROBED_TOKENS = 4
_BLAME_S = 2.0  # to find which tool is at fault
# Well below the library's own, which let one schema take seconds and hundreds of megabytes.
_LIMITS = {"initial_lexer_fuel": 300_000, "max_lexer_states": 20_000, "verbose_errors": False}

_QUOTED = re.compile(r" *(\d+ \||\^+$|<non-verbose/>)")
_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


class Constraints:
    """Makes grammars for the answers of one model, and processors that enforce them.

    A grammar is a text for `processor`. The first one takes the time to read the tokenizer, a large
    schema some 100 ms. Safe to use from several threads.
    """

    def __init__(self, pack: Path, vocab_size: int, eos_ids: frozenset[int]) -> None:
        """Read nothing yet.

        Args:
            pack: the directory with tokenizer.json.
            vocab_size: the model's rows of logits; the tokenizer may have fewer tokens, or more.
            eos_ids: the tokens that may end an answer.
        """
        self._pack = pack
        self._vocab_size = vocab_size
        self._eos_ids = eos_ids
        self._lock = threading.Lock()
        self._vocabulary: _Vocabulary | None = None
        self._compiled = functools.lru_cache(maxsize=_KEPT_GRAMMARS)(self._compile)

    def json_object(self) -> str:
        """The grammar of any JSON object.

        Raises:
            ConstraintError: llguidance is not installed, or the model has no end-of-sequence token.
            PackError: the tokenizer cannot be read.
        """
        return self.json_schema({"type": "object"})

    def json_schema(self, schema: Mapping[str, Any]) -> str:
        """The grammar of what a JSON schema allows.

        Raises:
            ConstraintError: the schema is wrong, too large, too deep, too complex, or uses what
                llguidance cannot enforce; or as `json_object`.
            PackError: as `json_object`.
        """
        return self._checked("the schema", schema_grammar(schema_text("the schema", schema)))

    def tool_calls(
        self, tools: Sequence[Mapping[str, Any]], syntax: CallSyntax, *, name: str | None = None
    ) -> str:
        """The grammar of exactly one call of a tool.

        Args:
            tools: in the form of OpenAI's and transformers' `tools`.
            syntax: the model's own.
            name: the tool to call; None: any of them.

        Raises:
            ConstraintError: no such tool, a wrong one, or its parameters as for `json_schema`.
            PackError: as `json_object`.
        """
        functions = choose_functions(tools, name)
        try:
            return self._checked("tools", call_grammar(functions, syntax, self._tokens().mark))
        except ConstraintError:
            # Each alone, so that the error names the tool; many of them would take minutes.
            end = time.monotonic() + _BLAME_S
            for function in functions:
                if time.monotonic() > end:
                    break
                self._checked(function.where, schema_grammar(function.parameters))
            raise

    def processor(self, grammar: str, *, after: str | None = None) -> LogitsProcessor:
        """What holds one generation to a grammar; every generation needs a new one.

        Once the answer is complete, only end-of-sequence tokens are left.

        Args:
            grammar: from one of the other methods.
            after: a text such as "</think>"; the model writes freely until it has written that.

        Raises:
            ConstraintError: the grammar is wrong. The processor raises it, too, where going on
                would take too much time or memory.
        """
        return _Processor(self._compiled(grammar).deep_copy(), self._tokens(), after)

    def _checked(self, name: str, grammar: str) -> str:
        try:
            self._compiled(grammar)
        except ConstraintError as error:
            raise ConstraintError(f"{name}: {error}") from error
        return grammar

    def _compile(self, grammar: str) -> "LLMatcher":
        library, tokens = _library(), self._tokens()
        limits = library.LLParserLimits(**_LIMITS)
        matcher: LLMatcher = library.LLMatcher(tokens.backend, grammar, log_level=0, limits=limits)
        problem = matcher.get_error() or tokens.probe(matcher.deep_copy())
        if problem:
            hint = "; use anyOf" if "oneOf" in problem else ""
            raise ConstraintError(f"answers cannot be held to it: {_plain(problem)}{hint}")
        return matcher

    def _tokens(self) -> "_Vocabulary":
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = _Vocabulary(self._pack, self._vocab_size, self._eos_ids)
            return self._vocabulary


class _Vocabulary:
    """The tokenizer as llguidance sees it, and the marks that are one token."""

    def __init__(self, pack: Path, vocab_size: int, eos_ids: frozenset[int]) -> None:
        library = _library()
        path = pack / "tokenizer.json"
        if not eos_ids:
            raise ConstraintError(f"{pack}: the model has no token that ends a constrained answer")
        tokenizer = read_backend(path, read_json(pack / CONFIG), special_tokens(pack))
        size = max(vocab_size, *(i + 1 for i in tokenizer.get_vocab().values()))
        try:
            self.backend: LLTokenizer = library.LLTokenizer(
                tokenizer.to_str(), n_vocab=size, eos_token=sorted(eos_ids)
            )
        except ValueError as error:
            raise ConstraintError(f"{path}: llguidance cannot use it: {error}") from error
        self._marks = {
            mark: found
            for syntax in CallSyntax
            for mark in syntax.marks
            if (found := tokenizer.token_to_id(mark)) is not None
        }

    def mark(self, text: str) -> str:
        """A mark in a grammar: the token, or else the text."""
        found = self._marks.get(text)
        return json.dumps(text, allow_nan=False) if found is None else f"<[{found}]>"

    def allowed(self, matcher: "LLMatcher") -> NDArray[np.uint8]:
        """Which tokens may come next: uint8 `[n]`, 0 or 1, n at least the model's rows."""
        mask = np.zeros((self.backend.vocab_size + 31) // 32, np.uint32)
        matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        return np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")

    def probe(self, matcher: "LLMatcher") -> str:
        """Write a few tokens: what is too complex shows there first. Returns the error, or ""."""
        for _ in range(_PROBED_TOKENS):
            allowed = self.allowed(matcher)
            if matcher.is_error() or matcher.is_stopped():
                return matcher.get_error()
            matcher.consume_token(int(allowed.argmax()))
        return matcher.get_error()


class _Processor:
    """A logits processor for one generation."""

    def __init__(self, matcher: "LLMatcher", tokens: _Vocabulary, after: str | None) -> None:
        self._matcher = matcher
        self._tokens = tokens
        self._after = None if after is None else after.encode()
        self._written = b""  # the end of what was written freely
        self._read: int | None = None  # so many token ids are known

    def __call__(self, token_ids: list[int], logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `LogitsProcessor`. The token ids of the first call are the prompt."""
        new = [] if self._read is None else token_ids[self._read :]
        self._read = len(token_ids)
        for token_id in new:
            if self._after is not None:
                self._write_freely(token_id, self._after)
            elif not self._matcher.is_stopped():
                self._consume([token_id])
        if self._after is not None:
            return logits
        allowed = self._tokens.allowed(self._matcher)[: logits.size]
        self._check()
        return np.where(allowed.view(np.bool_), logits, np.float32(-np.inf))

    def _write_freely(self, token_id: int, after: bytes) -> None:
        """Look for the end of the free text. What follows in the same token counts if it may."""
        self._written += self._tokens.backend.decode_bytes([token_id])
        _, found, rest = self._written.partition(after)
        if found:
            self._after = None
            rest_ids = self._tokens.backend.tokenize_bytes(rest.lstrip())
            # The model was free to write it, so a text that does not fit must not fail the answer.
            if self._matcher.validate_tokens(rest_ids) == len(rest_ids):
                self._consume(rest_ids)
        self._written = self._written[-len(after) :]

    def _consume(self, token_ids: list[int]) -> None:
        if self._matcher.try_consume_tokens(token_ids) < len(token_ids):
            self._check()
            raise ConstraintError("a token was chosen that the grammar forbids")

    def _check(self) -> None:
        if self._matcher.is_error():
            problem = _plain(self._matcher.get_error())
            raise ConstraintError(f"the answer cannot be held to the schema any more: {problem}")


def _plain(problem: str) -> str:
    """An error of llguidance in one line, without the lines of the grammar that it quotes."""
    lines = [line for line in problem.split("\n") if not _QUOTED.match(line)]
    return " ".join(_PLACE.sub("", " ".join(lines)).split())[:300]


def _library() -> ModuleType:
    """llguidance, which takes time to load and need not be installed."""
    try:
        import llguidance
    except ImportError as error:
        raise ConstraintError(
            "JSON schemas, JSON mode and forced tool calls need llguidance: pip install "
            "'adapmoe[serve]'"
        ) from error
    return llguidance
