# SPDX-License-Identifier: Apache-2.0
"""A model that writes at random still writes what a grammar wants."""

import json
import shutil
import sys
import threading

import jsonschema_rs
import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from adapmoe.errors import PackError
from adapmoe.generation.params import SamplingParams
from adapmoe.generation.sampling import Sampler
from adapmoe.serve import constraint
from adapmoe.serve.answer import AnswerParser, AnswerStyle
from adapmoe.serve.constraint import ConstraintError, Constraints
from adapmoe.serve.grammar import MAX_SCHEMA_BYTES
from adapmoe.serve.tool_calls import CallSyntax, ToolCall
from adapmoe.text.tokenizer import StreamDecoder, Tokenizer
from support.models.tool_templates import HERMES, MISTRAL_LIST, MISTRAL_NAMED

TEMPLATES = {
    CallSyntax.HERMES: HERMES,
    CallSyntax.MISTRAL: MISTRAL_LIST,
    CallSyntax.MISTRAL_ARGS: MISTRAL_NAMED,
}
MORE_ROWS = 5  # of logits than tokens


class Model:
    """A model whose logits are random, with a pack's tokenizer."""

    def __init__(self, pack):
        self.tokenizer = Tokenizer.from_pack(pack)
        self.rows = self.tokenizer.vocab_size + MORE_ROWS
        self.constraints = Constraints(pack, self.rows, self.tokenizer.eos_ids)

    def write(self, processor, *, seed=0, limit=600, **params):
        """Token ids of an answer that a processor constrains."""
        rng = np.random.default_rng(seed)
        params = SamplingParams(seed=seed, logits_processor=processor, **params)
        sampler = Sampler(np.array([1, 300, 301], np.int32), params)
        ids = []
        while not ids or (len(ids) < limit and ids[-1] not in self.tokenizer.eos_ids):
            logits = rng.normal(0, 3, self.rows).astype(np.float32)
            logits[-MORE_ROWS:] = 99  # rows without a token would be taken first
            ids.append(sampler.next(logits)[0])
        return ids

    def text(self, ids, *, shown=False):
        """The text; `shown`: with that of special tokens other than the end."""
        decoder = StreamDecoder(self.tokenizer)
        pieces = []
        for token_id in ids:
            special = self.tokenizer.special_text(token_id) if shown else None
            ends = token_id in self.tokenizer.eos_ids
            pieces.append(decoder.push(token_id) if special is None or ends else special)
        return "".join(pieces) + decoder.flush()


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    return Model(tiny_checkpoint)


@pytest.fixture(scope="module")
def marked(tiny_checkpoint, tmp_path_factory):
    """A model whose tokenizer has a token for each mark, special or not."""
    pack = tmp_path_factory.mktemp("marked")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copy(tiny_checkpoint / name, pack)
    backend = tokenizers.Tokenizer.from_file(str(tiny_checkpoint / "tokenizer.json"))
    backend.add_special_tokens(["[TOOL_CALLS]", "[ARGS]", "</think>"])
    backend.add_tokens(["<tool_call>", "</tool_call>"])  # as Qwen's: not special
    backend.save(str(pack / "tokenizer.json"))
    return Model(pack)


PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 3},
        "note": {"anyOf": [{"type": "null"}, {"enum": ["é", '"', "a\nb"]}]},
    },
    "required": ["name", "age", "tags", "note"],
    "additionalProperties": False,
    "$defs": {"tag": {"enum": ["red", "green"]}},
    "title": "Person",
    "description": "Ignored.",
}
SCHEMAS = [
    PERSON,
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    {"enum": [1, "two", None, [3], {"four": 4}]},
    {"const": {"a": ["b", 1.5]}},
    {"type": "string", "pattern": "^[a-c]{2,5}$"},
    {"type": "string", "format": "date"},
    {"type": ["integer", "null"], "minimum": -5, "maximum": 5},
    {"allOf": [{"type": "integer", "minimum": 1}, {"maximum": 9}]},
    {"$ref": "#/$defs/x", "$defs": {"x": {"type": "boolean"}}},
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
@pytest.mark.parametrize("temperature", [0, 1e-30, 1, 1e30])
def test_what_is_written_at_random_fits_the_schema(model, schema, temperature):
    grammar = model.constraints.json_schema(schema)
    for seed in range(3):
        ids = model.write(model.constraints.processor(grammar), seed=seed, temperature=temperature)
        assert ids[-1] in model.tokenizer.eos_ids
        jsonschema_rs.validate(schema, json.loads(model.text(ids)))


@pytest.mark.parametrize(
    "params",
    [
        {"top_k": 1, "temperature": 2.0},
        {"top_p": 1e-6, "temperature": 2.0},
        {"min_p": 1.0, "temperature": 2.0},
        {"logit_bias": {300: 1e38, 4098: 100.0}, "temperature": 0.5},
        {"repetition_penalty": 100.0, "frequency_penalty": 1e30},
        {"logprobs": 2, "temperature": 1.0},
    ],
)
def test_no_setting_of_the_sampling_breaks_a_constraint(model, params):
    grammar = model.constraints.json_schema(PERSON)
    ids = model.write(model.constraints.processor(grammar), **params)
    jsonschema_rs.validate(PERSON, json.loads(model.text(ids)))


def test_any_json_object(model):
    grammar = model.constraints.json_object()
    complete = 0
    for seed in range(8):
        ids = model.write(model.constraints.processor(grammar), seed=seed, temperature=1, limit=80)
        text = model.text(ids)
        assert text.startswith("{")
        if ids[-1] in model.tokenizer.eos_ids:
            assert isinstance(json.loads(text), dict)
            complete += 1
    assert complete


names = st.text('abcß" \\/{}', min_size=1, max_size=6)
leaves = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": -3, "maximum": 300},
        {"type": "string", "maxLength": 5},
        {"enum": ["a", 1, None]},
    ]
)
schemas = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(names, inner, max_size=3).map(
            lambda properties: {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
        | inner.map(lambda items: {"type": "array", "items": items, "maxItems": 2})
    ),
    max_leaves=5,
)


@given(schema=schemas, seed=st.integers(0, 2**32))
def test_any_schema_is_kept(model, schema, seed):
    grammar = model.constraints.json_schema(schema)
    ids = model.write(model.constraints.processor(grammar), seed=seed, temperature=1, limit=2000)
    jsonschema_rs.validate(schema, json.loads(model.text(ids)))


TOOLS = [
    {"type": "function", "function": {"name": "person", "parameters": PERSON}},
    {"type": "function", "function": {"name": "get-time.now", "description": "No arguments."}},
    {
        "type": "function",
        "function": {
            "name": "either",
            "parameters": {
                "anyOf": [
                    {"properties": {"a": {"type": "boolean"}}, "additionalProperties": False},
                    {"properties": {"b": {"type": "null"}}, "additionalProperties": False},
                ],
            },
        },
    },
]
PARAMETERS = {
    "person": PERSON,
    "get-time.now": {"maxProperties": 0},
    "either": {"type": "object"},
}


@pytest.mark.parametrize("has_marks", [False, True], ids=["as-text", "as-tokens"])
@pytest.mark.parametrize("syntax", CallSyntax)
def test_a_forced_call_is_a_call(model, marked, syntax, has_marks):
    writer = marked if has_marks else model
    style = AnswerStyle.of(TEMPLATES[syntax])
    grammar = writer.constraints.tool_calls(TOOLS, syntax)
    called = set()
    for seed in range(12):
        ids = writer.write(writer.constraints.processor(grammar), seed=seed, temperature=1)
        parser = AnswerParser(style, tools=True, prompt="")
        [call] = parser.push(writer.text(ids, shown=True)) + parser.finish()
        assert isinstance(call, ToolCall)
        jsonschema_rs.validate(PARAMETERS[call.name], json.loads(call.arguments))
        called.add(call.name)
        marks = {writer.tokenizer._backend.token_to_id(mark) for mark in style.shown_special}
        assert bool(marks.intersection(ids)) is has_marks
    assert len(called) > 1


def test_a_named_tool_is_the_one_called(model):
    grammar = model.constraints.tool_calls(TOOLS, CallSyntax.HERMES, name="person")
    for seed in range(4):
        ids = model.write(model.constraints.processor(grammar), seed=seed, temperature=1)
        assert model.text(ids).startswith('<tool_call>\n{"name": "person", "arguments": {')


@pytest.mark.parametrize(
    ("tools", "name", "message"),
    [
        ([], None, "no tool to call named None; there are: none"),
        (TOOLS, "other", "named 'other'; there are: person, get-time.now, either"),
        ([{"type": "function"}], None, r"tools\[0\].function.name"),
        ([{"function": {"name": 'a" "'}}], None, r"tools\[0\].function.name"),
        ([{"function": {"name": "f", "parameters": {"type": "array"}}}], None, "of an object"),
        ([{"function": {"name": "f", "parameters": [1]}}], None, "of an object"),
        ([{"function": {"name": "f", "parameters": {"properties": 5}}}], None, "cannot be held"),
        (
            [{"function": {"name": "f", "parameters": {"enum": ["x" * 60_000]}}}] * 5,
            None,
            "parameters of the tools have .* bytes; at most 262144 can be",
        ),
        (
            [TOOLS[0], {"function": {"name": "f", "parameters": {"uniqueItems": True}}}],
            None,
            r"tools\[1\]\.function\.parameters: .*uniqueItems",
        ),
    ],
)
def test_tools_that_cannot_be_forced_are_refused(model, tools, name, message):
    with pytest.raises(ConstraintError, match=message):
        model.constraints.tool_calls(tools, CallSyntax.HERMES, name=name)


def test_parameters_without_a_schema_are_none_and_an_empty_schema_is_anything(model):
    for parameters, arguments in [(None, "{}"), ({}, '{"a": [1]}')]:
        tool = {"function": {"name": "f", "parameters": parameters}}
        grammar = model.constraints.tool_calls([tool], CallSyntax.HERMES)
        text = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
        for written in ("{}", arguments, '{"a": [1]}'):
            matcher = model.constraints._compiled(grammar).deep_copy()
            ids = matcher_ids(model, text.replace(arguments, written))
            allowed = written == "{}" or parameters is not None
            assert (matcher.validate_tokens(ids) == len(ids)) is allowed


def matcher_ids(model, text):
    return model.constraints._tokens().backend.tokenize_bytes(text.encode())


def test_which_of_many_tools_is_at_fault_is_looked_for_only_so_long(model, monkeypatch):
    """Compiled together they are too much, and each one takes its time."""
    constraints = Constraints(model.constraints._pack, model.rows, model.tokenizer.eos_ids)
    compiled, now = [], 0.0

    def compile_slowly(grammar):
        nonlocal now
        compiled.append(grammar)
        now += 0.5
        if "call" in grammar:
            raise ConstraintError("too many expressions")

    monkeypatch.setattr(constraints, "_compiled", compile_slowly)
    monkeypatch.setattr(constraint.time, "monotonic", lambda: now)
    tools = [{"function": {"name": f"f{at}"}} for at in range(128)]
    with pytest.raises(ConstraintError, match=r"^tools: too many expressions"):
        constraints.tool_calls(tools, CallSyntax.HERMES)
    assert 1 + 2 / 0.5 <= len(compiled) <= 3 + 2 / 0.5


def nested(levels):
    schema = {"type": "integer"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "strin"}, "the schema: answers cannot be held to it: Invalid type: strin"),
        ({"type": 5}, "cannot be held"),
        ({"$ref": "#/$defs/none"}, "cannot be held"),
        ({"$ref": "file:///etc/passwd"}, "does not fetch"),
        ({"$ref": "https://localhost/schema.json"}, "does not fetch"),
        ({"$ref": "#"}, "cannot be held"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "null"}}, '"not"'),
        ({"oneOf": [{"type": "object"}, {"required": ["a"]}]}, "use anyOf"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "greater than maximum"),
        ({"enum": []}, "cannot be held"),
        ({"type": "string", "format": "unheard-of"}, "format"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-ahead"),
        ({"type": "string", "pattern": "("}, "regex"),
        ({"type": "string", "pattern": "^(a{1000}){1000}$"}, "too many expressions"),
        ({"properties": {f"p{i}": {} for i in range(2500)}, "type": "object"}, "cannot be held"),
        ({"enum": ["x" * MAX_SCHEMA_BYTES]}, f"bytes; at most {MAX_SCHEMA_BYTES}"),
        ({"const": "é" * (MAX_SCHEMA_BYTES // 2)}, "bytes; at most"),
        (nested(40), "nests deeper than 32 levels"),
        (nested(100_000), "nests deeper than 32 levels"),
        ({"const": float("nan")}, "only what JSON can hold"),
        ({"const": object()}, "only what JSON can hold"),
        ({"const": "\ud800"}, "cannot be held"),
    ],
)
def test_schemas_that_cannot_be_used_are_refused(model, schema, message):
    with pytest.raises(ConstraintError, match=message) as caught:
        model.constraints.json_schema(schema)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_schema_cannot_lift_the_bounds_on_white_space(model):
    schema = {"const": [1], "x-guidance": {"whitespace_pattern": "[ ]*", "lenient": True}}
    processor = model.constraints.processor(model.constraints.json_schema(schema))
    assert len(model.text(model.write(processor, temperature=1))) < 120
    with pytest.raises(ConstraintError, match="uniqueItems"):
        model.constraints.json_schema({"uniqueItems": True, "x-guidance": {"lenient": True}})


def test_what_a_model_thinks_is_free(model, marked):
    for writer in (model, marked):
        thought = writer.tokenizer.encode(" So {</think", add_bos=False)
        thought += writer.tokenizer.encode("</think>", add_bos=False)
        processor = writer.constraints.processor(
            writer.constraints.json_schema({"const": 5}), after="</think>"
        )
        prompt = writer.tokenizer.encode("</think>")  # in the prompt it does not count
        five = writer.tokenizer._backend.token_to_id("5")
        logits = np.zeros(writer.rows, np.float32)
        for end in range(len(thought)):
            assert (processor(prompt + thought[:end], logits.copy()) == 0).all()
        assert np.flatnonzero(np.isfinite(processor(prompt + thought, logits))).tolist() == [five]


def test_what_follows_the_thoughts_in_the_same_token_counts_if_it_may(tiny_checkpoint, tmp_path):
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens([">\n\n", ">\n\n[", ">\n\nx", ">\n\n[x"])
    backend.save(str(tmp_path / "tokenizer.json"))
    writer = Model(tmp_path)
    grammar = writer.constraints.json_schema({"const": [5]})
    thought = writer.tokenizer.encode("</think", add_bos=False)
    # What the grammar forbids does not count.
    for last, expected in [(">\n\n", "["), (">\n\n[", "5"), (">\n\nx", "["), (">\n\n[x", "[")]:
        processor = writer.constraints.processor(grammar, after="</think>")
        processor([1], np.zeros(writer.rows, np.float32))
        ids = [1, *thought, backend.token_to_id(last)]
        allowed = np.isfinite(processor(ids, np.zeros(writer.rows, np.float32)))
        texts = {backend.id_to_token(int(found)).strip("▁") for found in np.flatnonzero(allowed)}
        assert expected in {text[:1] for text in texts}


def test_after_the_end_only_the_end_is_left(model):
    """As with ignore_eos, or when a stop token ends answers earlier than the grammar."""
    processor = model.constraints.processor(model.constraints.json_schema({"const": 5}))
    ids = [1]
    found = []
    for _ in range(4):
        allowed = processor(list(ids), np.zeros(model.rows, np.float32))
        ids.append(int(np.argmax(allowed)))
        found.append(np.flatnonzero(np.isfinite(allowed)).tolist())
    assert found[1:] == [sorted(model.tokenizer.eos_ids)] * 3


def test_a_token_against_the_grammar_is_an_error(model):
    processor = model.constraints.processor(model.constraints.json_schema({"const": 5}))
    processor([1], np.zeros(model.rows, np.float32))
    with pytest.raises(ConstraintError, match="grammar forbids"):
        processor([1, model.tokenizer.encode("x", add_bos=False)[-1]], np.zeros(model.rows))


def test_each_generation_has_a_state_of_its_own(model):
    grammar = model.constraints.json_schema(PERSON)
    first, second = (model.constraints.processor(grammar) for _ in range(2))
    alone = model.write(model.constraints.processor(grammar), seed=5, temperature=1)
    model.write(first, seed=4, temperature=1)
    assert model.write(second, seed=5, temperature=1) == alone


def test_several_threads_may_ask_at_once(tiny_checkpoint):
    writer = Model(tiny_checkpoint)
    texts, failures = [], []

    def work(seed):
        try:
            grammar = writer.constraints.json_schema(SCHEMAS[seed % 2])
            ids = writer.write(writer.constraints.processor(grammar), seed=seed, temperature=1)
            texts.append(json.loads(writer.text(ids)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(texts) == 8


def test_without_llguidance_the_error_says_what_to_install(tiny_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(ConstraintError, match=r"pip install 'adapmoe\[serve\]'"):
        Constraints(tiny_checkpoint, 4096, frozenset({2})).json_object()


def test_a_model_without_an_end_cannot_be_constrained(tiny_checkpoint):
    with pytest.raises(ConstraintError, match="no token that ends"):
        Constraints(tiny_checkpoint, 4096, frozenset()).json_object()


def test_a_tokenizer_that_cannot_be_read_is_a_pack_error(tmp_path):
    with pytest.raises(PackError, match=r"tokenizer\.json"):
        Constraints(tmp_path, 4096, frozenset({2})).json_object()


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows(marked, tiny_checkpoint):
    """Tokens that the model cannot write do not count."""
    backend_size = marked.tokenizer.vocab_size
    rows = backend_size - 4
    pack = marked.constraints._pack
    constraints = Constraints(pack, rows, marked.tokenizer.eos_ids)
    processor = constraints.processor(constraints.json_schema({"const": 5}))
    allowed = processor([1], np.zeros(rows, np.float32))
    assert allowed.shape == (rows,)
    assert allowed.dtype == np.float32
    assert np.isfinite(allowed).any()
