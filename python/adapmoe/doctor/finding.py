# SPDX-License-Identifier: Apache-2.0
"""What was found about one topic."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "note", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what it is about; the name to look for in `--json`.
        status: "ok"; "note": worth knowing; "warning": slower, or less memory, than need be;
            "problem": something cannot run.
        seen: what the machine says.
        why: why it matters.
        remedy: what to do about it; empty where nothing needs to be done.
    """

    topic: str
    status: Status
    seen: str
    why: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Ready for JSON."""
        return asdict(self)


def has_problem(findings: Sequence[Finding]) -> bool:
    """Whether something cannot run."""
    return any(finding.status == "problem" for finding in findings)
