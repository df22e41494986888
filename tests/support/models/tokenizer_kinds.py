# SPDX-License-Identifier: Apache-2.0
"""Small tokenizers of the kinds that models come with, trained in a moment."""

import json
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

# A model of the tests has 4096 tokens; ids from 600 on are in no vocabulary.
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|system|>", "<|user|>"]
SPECIAL += ["<|assistant|>", "<|tool|>", "<|end|>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LINES = [
    "The first law of robotics is that it may not be known, and the second follows.",
    "def answer(question):\n    return question.upper()  # of the user\n",
    "Hello there! How are you? I am well, thank you. Naïve café, 漢字 and é€😀.",
] * 20


def _byte_level(backend, trainer):
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()


def _metaspace(scheme):
    def shape(backend, _):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        backend.decoder = decoders.Sequence(
            [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)]
        )

    return shape


def _llama_legacy(backend, _):
    """As SentencePiece models are converted: a space before every text, no pre-tokenizer."""
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )


KINDS = {
    "byte-level": _byte_level,
    "metaspace-first": _metaspace("first"),
    "metaspace-always": _metaspace("always"),
    "metaspace-never": _metaspace("never"),
    "llama-legacy": _llama_legacy,
}


@cache
def tokenizer_json(kind):
    """tokenizer.json of one of KINDS, as text."""
    byte_fallback = kind != "byte-level"
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=byte_fallback))
    options = {"initial_alphabet": []}
    KINDS[kind](backend, options)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[*SPECIAL, *(BYTES if byte_fallback else [])],
        limit_alphabet=300 if kind == "byte-level" else 50,
        show_progress=False,
        **options,
    )
    backend.train_from_iterator(LINES, trainer)
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in SPECIAL]
    return json.dumps(spec)


def write_tokenizer(directory, kind, *, chat_template=None, **config):
    """The files of a checkpoint that concern text."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(tokenizer_json(kind))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "chat_template": chat_template,
    } | config
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory
