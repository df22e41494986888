# SPDX-License-Identifier: Apache-2.0
"""Sampling options that `run` and `chat` share."""

from typing import Annotated

import typer

MaxTokensOption = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", help="Most tokens to generate.", show_default=False),
]
TemperatureOption = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopKOption = Annotated[int, typer.Option(help="Sample among the K most likely tokens; 0: off.")]
TopPOption = Annotated[
    float, typer.Option(help="Sample among the likeliest tokens up to P in sum; 1: off.")
]
MinPOption = Annotated[
    float, typer.Option(help="Sample tokens at least P times as likely as the likeliest; 0: off.")
]
RepetitionPenaltyOption = Annotated[
    float, typer.Option(help="Above 1: less of what prompt and answer contain already; 1: off.")
]
PresencePenaltyOption = Annotated[
    float, typer.Option(help="Subtracted from logits of tokens that were generated; 0: off.")
]
FrequencyPenaltyOption = Annotated[
    float, typer.Option(help="Subtracted for every time a token was generated; 0: off.")
]
SeedOption = Annotated[
    int | None, typer.Option(help="Makes sampling repeatable.", show_default=False)
]
StopOption = Annotated[
    list[str] | None,
    typer.Option(help="End at this text; may be given several times.", show_default=False),
]
StopIdOption = Annotated[
    list[int] | None,
    typer.Option(
        min=0,
        metavar="N",
        help="End at the token with this id, as at an end of sequence; may be given several times.",
        show_default=False,
    ),
]
IgnoreEosOption = Annotated[
    bool, typer.Option("--ignore-eos", help="Go on after an end-of-sequence token.")
]
LogprobsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="With --json: log-probabilities of each token and of the N likeliest.",
        show_default=False,
    ),
]


def check_stop_ids(stop_ids: list[int] | None, vocab_size: int) -> tuple[int, ...]:
    """The ids that --stop-id gave. Raises ValueError for one that the model does not have."""
    for token_id in stop_ids or ():
        if token_id >= vocab_size:
            raise ValueError(f"--stop-id {token_id}: the model has the ids 0 to {vocab_size - 1}")
    return tuple(stop_ids or ())
