# SPDX-License-Identifier: Apache-2.0
"""Rendered conversations equal those of transformers."""

import pytest

from adapmoe.errors import ChatTemplateError
from adapmoe.text.chat_template import ChatTemplates
from adapmoe.text.tokenizer import Tokenizer
from support.models.chat_templates import INSTRUCT, MARKUP

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.torch

SYSTEM = {"role": "system", "content": '  Be <kind> & "short". é€😀\n'}
CONVERSATIONS = [
    [{"role": "user", "content": "Hello"}],
    [SYSTEM, {"role": "user", "content": "Hello\n\n  there "}],
    [
        SYSTEM,
        {"role": "user", "content": "What is {{ 7 * 7 }}?"},
        {"role": "assistant", "content": " It is {% raw %} 49.\n"},
        {"role": "user", "content": ""},
    ],
    [
        {
            "role": "user",
            "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}],
        }
    ],
    [
        {"role": "user", "content": "x"},
        {"role": "tool", "content": "", "result": {"é": [1, None, "<"]}},
    ],
    [{"role": "assistant", "content": "first"}],
    [{"role": "user", "content": "x"}, {"role": "system", "content": "late"}],
    [{"role": "nobody", "content": "x"}],
]


@pytest.fixture(scope="module")
def reference(tiny_checkpoint):
    return transformers.AutoTokenizer.from_pretrained(tiny_checkpoint)


@pytest.mark.parametrize("template", [None, MARKUP, INSTRUCT], ids=["tiny", "markup", "instruct"])
@pytest.mark.parametrize("messages", CONVERSATIONS, ids=range(len(CONVERSATIONS)))
def test_text_and_tokens_equal_those_of_transformers(
    reference, tiny_checkpoint, messages, template
):
    options = {"chat_template": template, "add_generation_prompt": True}
    templates = ChatTemplates.from_pack(tiny_checkpoint)
    try:
        expected = reference.apply_chat_template(messages, tokenize=False, **options)
    except Exception:  # what one refuses the other refuses
        with pytest.raises(ChatTemplateError):
            templates.render(messages, template)
        return
    found = templates.render(messages, template)
    assert found == expected
    ids = reference.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    assert Tokenizer.from_pack(tiny_checkpoint).encode(found, add_bos=False) == ids


def test_the_templates_refuse_something_and_accept_something(tiny_checkpoint):
    """Otherwise the comparison above would show little."""
    templates = ChatTemplates.from_pack(tiny_checkpoint)
    for template in (None, MARKUP, INSTRUCT):
        with pytest.raises(ChatTemplateError):
            templates.render(CONVERSATIONS[-1], template)
        assert "Hello" in templates.render(CONVERSATIONS[0], template)
