"""What ends an answer: the token that generation stops at, in templates that close more than turns with one token."""

import functools

import pytest

from stages.chat.answer_form import describe_end_of_turn
from stages.chat.encoding import EncodedRow, encode_dialogues
from stages.chat.prompt_choice import choose_prompt
from stages.chat.rendering import Dialogue, compile_template
from stages.chat.row_rules import REASONING_ENDS_TURN, TEMPLATE_FORBIDDEN
from stages.chat.template_report import forbids_calls
from tests.stages.chat.test_encoding import HARMONY_LIKE, byte_level, opened, rows_of, trained, turns

CLOSES_ALL = (
    "{% for m in messages %}{{ '<|open|>' + m.role + '<|sep|>' }}{% if m.role == 'assistant' %}"
    "{{ (m.reasoning or '') + '<|close|>think<|sep|><|open|>response<|sep|>' + m.content + '<|close|>response<|sep|>' }}"
    "{% else %}{{ m.content + '<|close|>text<|sep|>' }}{% endif %}{{ '<|end_of_msg|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|open|>assistant<|sep|>' }}{% endif %}"
)
"""Kimi-K3's way: `<|close|>` ends a thought, an answer, a question."""
ENDS_THOUGHTS = (
    "{% for m in messages %}{{ '<|begin|>' + m.role }}"
    "{% if m.reasoning %}{{ '<|think|>' + m.reasoning + '<|end|><|begin|>assistant' }}{% endif %}"
    "{{ '<|content|>' + m.content + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|begin|>assistant' }}{% endif %}"
)
"""Solar-Open's way: nothing but `<|end|>` ends an answer, and it ends a thought."""
TOKENS = ["<|open|>", "<|sep|>", "<|close|>", "<|end_of_msg|>"]
HARMONY = ["<|start|>", "<|message|>", "<|end|>", "<|return|>"]
GAP = "<|close|>think<|sep|><|open|>response<|sep|>"
END = "<|close|>response<|sep|><|end_of_msg|>"


def think(thought: str, answer: str) -> dict[str, str]:
    return {"role": "assistant", "content": answer, "reasoning": thought}


@pytest.mark.parametrize("as_text", [False, True])
def test_turn_that_a_later_token_closes_is_trained_up_to_it_and_stops_there(as_text: bool) -> None:
    chat = opened(CLOSES_ALL, byte_level([] if as_text else TOKENS), TOKENS if as_text else ())
    asked = {"role": "user", "content": "q"}
    plain, thinks = rows_of(
        chat, [turns("q", "first", "q", "second"), Dialogue([asked, think("hm", "up"), asked, think("so", "down")])]
    )
    assert trained(chat, plain) == [f"{GAP}first{END}", f"{GAP}second{END}"]
    assert trained(chat, thinks) == [f"hm{GAP}up{END}", f"so{GAP}down{END}"]
    end = describe_end_of_turn(chat)
    assert (end["text"], end["special"], end["inner"]) == ("<|end_of_msg|>", not as_text, "")
    assert isinstance(plain, EncodedRow)
    assert plain.input_ids[plain.answer_ends[0] - 1] in end["ids"]


def test_template_that_ends_thoughts_and_answers_alike_is_given_no_thoughts() -> None:
    chat = opened(ENDS_THOUGHTS, byte_level(["<|begin|>", "<|think|>", "<|end|>", "<|content|>"]))
    asked = {"role": "user", "content": "q"}
    plain, thinks = rows_of(chat, [turns("q", "first"), Dialogue([asked, think("hm", "up")])])
    assert trained(chat, plain) == ["<|content|>first<|end|>"]
    assert thinks == REASONING_ENDS_TURN
    stripped = opened(ENDS_THOUGHTS, chat.tokenizer, reasoning="strip")
    (row,) = rows_of(stripped, [Dialogue([asked, think("hm", "up")])])
    assert trained(stripped, row) == ["<|content|>up<|end|>"]


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("traced", [False, True])
def test_end_of_an_earlier_answer_that_stops_nothing_is_context(as_text: bool, traced: bool) -> None:
    chat = opened(HARMONY_LIKE, byte_level([] if as_text else HARMONY), HARMONY if as_text else ())
    if traced:
        chat = chat.__class__(**{**vars(chat), "token_bytes": None})
    (row,) = rows_of(chat, [turns("q", "first one", "q", "second")])
    assert trained(chat, row) == ["<|message|>first one", "<|message|>second<|return|>"]
    assert describe_end_of_turn(chat)["inner"] == "<|end|>"


def test_end_of_a_call_stays_trained_where_that_of_an_earlier_answer_is_not() -> None:
    source = HARMONY_LIKE.replace("else '<|end|>'", "else '<|call|>' if m.tool_calls else '<|end|>'").replace(
        "m.content }}", "m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% endif %}", 1
    )
    chat = opened(source, byte_level(["<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"]))
    call = {"type": "function", "id": "call00000", "function": {"name": "look", "arguments": {"at": "b"}}}
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "r", "tool_call_id": "call00000", "name": "look"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "b"},
    ]
    (row,) = rows_of(chat, [Dialogue(messages)])
    called, first, last = trained(chat, row)
    assert called.endswith("<|call|>")
    assert (first, last) == ("<|message|>a", "<|message|>b<|return|>")


def test_batch_with_such_ends_gives_each_row_what_it_gets_alone() -> None:
    chat = opened(HARMONY_LIKE, byte_level(HARMONY))
    talks = [("q", "é one", "q", "second"), ("q", "first"), ("a", "b", "c", "d", "e", "f")]
    dialogues = [Dialogue(turns(*talk)) for talk in talks]
    together = encode_dialogues(chat, dialogues, "all_assistant_turns")
    for place, dialogue in enumerate(dialogues):
        (alone,) = rows_of(chat, [dialogue])
        found = together.row(place)
        assert isinstance(found, EncodedRow)
        assert isinstance(alone, EncodedRow)
        assert found.labels.tolist() == alone.labels.tolist()


def test_template_that_does_what_transformers_sandbox_forbids_is_told_by_that_cause() -> None:
    """Kimi-K2-Instruct's way: the ids of calls are appended to a list."""
    source = "{% set ids = [] %}" + HARMONY_LIKE.replace(
        "}}{% endfor", "}}{% set _ = ids.append(1) if m.tool_calls %}{% endfor"
    )
    assert "append" in source
    chat, harmless = opened(source, byte_level(HARMONY)), opened(HARMONY_LIKE, byte_level(HARMONY))
    call = {"type": "function", "id": "call00000", "function": {"name": "look", "arguments": {}}}
    called = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    assert rows_of(chat, [Dialogue(called)]) == [TEMPLATE_FORBIDDEN]
    assert rows_of(harmless, [Dialogue(called)]) != [TEMPLATE_FORBIDDEN]
    assert isinstance(rows_of(chat, [turns("q", "a")])[0], EncodedRow)
    assert (forbids_calls(chat.turns.template), forbids_calls(harmless.turns.template)) == (True, False)


def test_train_gap_says_where_auto_would_do_the_same() -> None:
    compiled = functools.partial(compile_template, special_tokens={}, date_string="26 Jul 2024")
    asked, auto = (choose_prompt(CLOSES_ALL, compiled, wanted) for wanted in ("train_gap", "auto"))
    assert asked._replace(reason="") == auto._replace(reason="")
    assert asked.reason == f"{auto.reason} (template.prompt: auto does the same with this template)"
    no_prompt = choose_prompt(CLOSES_ALL.partition("{% if add_generation")[0], compiled, "train_gap")
    assert "auto does the same" not in no_prompt.reason
