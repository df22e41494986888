# SPDX-License-Identifier: Apache-2.0
"""`adapmoe chat`: talk to a model."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from adapmoe.cli.chat_loop import ChatLoop
from adapmoe.cli.exit_codes import RUNTIME_ERROR, usage_errors
from adapmoe.cli.options import (
    BackendOption,
    ExactOption,
    ExpertOptions,
    ExpertPathOption,
    ExpertsResidentOption,
    KernelsOption,
    KvDtypeOption,
    LLMOptions,
    MaxContextOption,
    MemoryOption,
    PackArgument,
    PolicyOption,
    ThreadsOption,
    open_llm,
)
from adapmoe.cli.sampling_options import (
    FrequencyPenaltyOption,
    IgnoreEosOption,
    MaxTokensOption,
    MinPOption,
    PresencePenaltyOption,
    RepetitionPenaltyOption,
    SeedOption,
    StopIdOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    check_stop_ids,
)
from adapmoe.conversation import Conversation
from adapmoe.sampling_params import SamplingParams

SystemOption = Annotated[
    str | None, typer.Option(help="What the system message says.", show_default=False)
]
ChatTemplateOption = Annotated[
    Path | None,
    typer.Option(
        exists=True,
        dir_okay=False,
        help="A file with a Jinja chat template, instead of the pack's.",
        show_default=False,
    ),
]


def chat(
    pack: PackArgument,
    system: SystemOption = None,
    chat_template: ChatTemplateOption = None,
    max_tokens: MaxTokensOption = None,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = 0,
    top_p: TopPOption = 1.0,
    min_p: MinPOption = 0.0,
    repetition_penalty: RepetitionPenaltyOption = 1.0,
    presence_penalty: PresencePenaltyOption = 0.0,
    frequency_penalty: FrequencyPenaltyOption = 0.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    stop_id: StopIdOption = None,
    ignore_eos: IgnoreEosOption = False,
    memory: MemoryOption = "auto",
    experts_resident: ExpertsResidentOption = None,
    threads: ThreadsOption = None,
    max_context: MaxContextOption = 0,
    policy: PolicyOption = "next-use",
    kernels: KernelsOption = "auto",
    backend: BackendOption = "auto",
    experts: ExpertPathOption = "auto",
    exact: ExactOption = True,
    kv_dtype: KvDtypeOption = "f16",
) -> None:
    """Talk to a model. Every line is a message; answers go to stdout, all else to stderr.

    Ctrl-C stops an answer, Ctrl-D or /exit leaves, /help lists what else there is.

    Examples:

      adapmoe chat mixtral-instruct.adapmoe --memory 12GiB --system "Answer briefly."

      printf 'Hello\\nAnd in French?\\n' | adapmoe chat mixtral-instruct.adapmoe -n 100
    """
    with usage_errors():
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            seed=seed,
            stop=tuple(stop or ()),
            ignore_eos=ignore_eos,
        )
        template = chat_template.read_text(encoding="utf-8") if chat_template else None
        options = LLMOptions(
            memory, experts_resident, threads, max_context, policy, kernels, kv_dtype
        )
        chosen = ExpertOptions(backend=backend, experts=experts, exact=exact)
        llm = open_llm(pack, options, chosen)
        params = replace(params, stop_token_ids=check_stop_ids(stop_id, llm.vocab_size))
    with llm, Conversation(llm, system=system, chat_template=template) as conversation:
        all_answered = ChatLoop(llm, conversation, params).run()
    if not all_answered:
        raise typer.Exit(RUNTIME_ERROR)
