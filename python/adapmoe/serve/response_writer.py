# SPDX-License-Identifier: Apache-2.0
"""Writes a response of OpenAI's responses API, as a whole and as events of a stream."""

import time
import uuid
from typing import Any

from adapmoe.serve.answer import ReasoningPart, TextPart
from adapmoe.serve.errors import ApiError
from adapmoe.serve.logprobs import LogprobsWriter
from adapmoe.serve.pieces import Ending, Piece

Event = dict[str, Any]


class ResponseWriter:
    """One response, which grows piece by piece.

    Attributes:
        whole: the response so far; complete after `finish`.
    """

    def __init__(self, head: dict[str, Any], logprobs: LogprobsWriter | None) -> None:
        """Take what is known before the first token.

        Args:
            head: the response without any output.
            logprobs: writes log-probabilities; None: they are not wanted.
        """
        self.whole = head
        self._logprobs = logprobs
        self._item: dict[str, Any] | None = None  # the last one, while it grows
        self._unsent: list[dict[str, Any]] = []  # log-probabilities that wait for a text
        self._events = 0

    def begin(self) -> list[Event]:
        """The events before the first token."""
        return [
            self._event(f"response.{word}", response={**self.whole})
            for word in ("created", "in_progress")
        ]

    def add(self, piece: Piece) -> list[Event]:
        """Append what is new; return its events."""
        if self._logprobs is not None:
            self._unsent += self._logprobs.chat(piece.logprobs)
        events: list[Event] = []
        for part in piece.parts:
            # There are no tools, so no calls are looked for.
            assert isinstance(part, TextPart | ReasoningPart)
            kind = "message" if isinstance(part, TextPart) else "reasoning"
            if self._item is None or self._item["type"] != kind:
                events += self._end_item("completed") + self._begin_item(kind)
            events.append(self._delta(part.text))
        return events

    def finish(self, ending: Ending, usage: dict[str, Any]) -> list[Event]:
        """Complete the response with what it has cost; return the last events."""
        status = "incomplete" if ending == "length" else "completed"
        events: list[Event] = []
        if self._item is None:  # the model wrote nothing: an empty message says so
            events += self._begin_item("message")
        events += self._end_item(status)
        self.whole["status"] = status
        if status == "incomplete":
            self.whole["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.whole["completed_at"] = int(time.time())
        self.whole["usage"] = usage
        return [*events, self._event(f"response.{status}", response=self.whole)]

    def error(self, error: ApiError) -> Event:
        """The last event of a stream that fails."""
        return self._event("error", code=error.code, message=str(error), param=error.param)

    def _event(self, kind: str, **fields: Any) -> Event:
        self._events += 1
        return {"type": kind, "sequence_number": self._events - 1, **fields}

    def _begin_item(self, kind: str) -> list[Event]:
        item: dict[str, Any] = {"type": kind, "status": "in_progress", "content": []}
        if kind == "message":
            item |= {"id": f"msg_{uuid.uuid4().hex}", "role": "assistant"}
            part: dict[str, Any] = {
                "type": "output_text",
                "text": "",
                "annotations": [],
                "logprobs": [],
            }
        else:
            item |= {"id": f"rs_{uuid.uuid4().hex}", "summary": []}
            part = {"type": "reasoning_text", "text": ""}
        self.whole["output"] = [*self.whole["output"], item]
        added = self._event(
            "response.output_item.added", output_index=self._index, item={**item, "content": []}
        )
        item["content"] = [part]
        self._item = item
        return [added, self._in_item("response.content_part.added", part={**part})]

    def _delta(self, text: str) -> Event:
        assert self._item is not None
        part = self._item["content"][0]
        part["text"] += text
        if part["type"] == "reasoning_text":
            return self._in_item("response.reasoning_text.delta", delta=text)
        logprobs, self._unsent = self._unsent, []
        part["logprobs"] = part["logprobs"] + logprobs
        return self._in_item("response.output_text.delta", delta=text, logprobs=logprobs)

    def _end_item(self, status: str) -> list[Event]:
        if self._item is None:
            return []
        self._item["status"] = status
        part = self._item["content"][0]
        more = {}
        if part["type"] == "output_text":
            part["logprobs"] = part["logprobs"] + self._unsent
            self._unsent = []
            more = {"logprobs": part["logprobs"]}
        return [
            self._in_item(f"response.{part['type']}.done", text=part["text"], **more),
            self._in_item("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=self._index, item=self._item),
        ]

    def _in_item(self, kind: str, **fields: Any) -> Event:
        assert self._item is not None
        place = {"item_id": self._item["id"], "output_index": self._index, "content_index": 0}
        return self._event(kind, **place, **fields)

    @property
    def _index(self) -> int:
        return len(self.whole["output"]) - 1
