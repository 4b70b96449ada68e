"""Tools in the stage `template`: definitions and calls as the template says, only what the assistant wrote is trained, and the proof of it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from stages.chat.encoding import EncodedRow
from stages.chat.rendering import Dialogue, Message
from tests.stages.chat.test_encoding import CHATML, LLAMA, PLAIN, byte_level, opened, rows_of, trained

LLAMA_LIKE = (  # definitions in the first question, one call a turn in place of the content, results as JSON
    "{{ bos_token }}{% set head = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\n' + head + '<|eot_id|>' }}"
    "{% for m in rest %}{% if 'tool_calls' in m %}"
    "{% if m.tool_calls | length != 1 %}{{ raise_exception('one call') }}{% endif %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{{ '{\"name\": \"' + m.tool_calls[0].function.name + '\", \"parameters\": ' + m.tool_calls[0].function.arguments | tojson + '}<|eot_id|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + m.content | tojson + '<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if loop.first and tools %}{% for t in tools %}{{ t | tojson(indent=4) + '\n\n' }}{% endfor %}{% endif %}"
    "{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN_LIKE = (  # text and calls in one turn; results joined in a user turn
    "{{ '<|im_start|>system\n' + (messages[0].content if messages[0].role == 'system' else 'You help.') }}"
    "{% if tools %}{{ '\n\n# Tools\n<tools>' }}{% for t in tools %}{{ '\n' + t | tojson }}{% endfor %}{{ '\n</tools>' }}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% for m in messages %}{% if m.role == 'system' %}{% elif m.role == 'tool' %}"
    "{% if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + m.role }}{% if m.content %}{{ '\n' + m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ '\n<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL_LIKE = (  # definitions before the last question, so that no prefix of the dialogue is a prefix of the text; no generation prompt
    "{% set last = messages | selectattr('role', 'equalto', 'user') | list | last %}{{ bos_token }}"
    "{% for m in messages %}{% if m.role == 'user' %}"
    "{% if tools and m is sameas last %}{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.tool_calls %}{{ '[TOOL_CALLS] ' + m.tool_calls | map(attribute='function') | list | tojson + eos_token }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}"
    "{% else %}{{ '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}{% endif %}{% endfor %}"
)
LATEST_FIRST = (  # a later answer stands before an earlier one
    "{% for t in tools or [] %}{{ t | tojson + '\n' }}{% endfor %}"
    "{% for m in messages | reverse %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA_4_LIKE = (  # a call, what the tool gave back, and then the text beside the call, in one turn
    "{{ tools | tojson if tools else '' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{% elif m.role == 'assistant' %}"
    "{% if loop.previtem.role == 'user' %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ '<|call|>' + c.function.name + c.function.arguments | tojson + '<|called|>' }}{% endfor %}"
    "{{ '(' + loop.nextitem.content + ')' if m.tool_calls and loop.nextitem else '' }}"
    "{{ m.content + '<|im_end|>\n' if m.content or not m.tool_calls else '' }}{% endif %}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt and messages[-1].role != 'tool' else '' }}"
)
HARMONY_LIKE = (  # a tool's result bears its name, and a call's thought is dropped once the call is answered
    "{{ tools | tojson if tools else '' }}{% set ns = namespace(name=none) %}{% for m in messages %}"
    "{% if m.thinking and loop.last %}{{ '<|start|>assistant<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
    "{% if m.tool_calls %}{% set ns.name = m.tool_calls[0].function.name %}"
    "{{ '<|start|>assistant to=' + ns.name + '<|message|>' + m.tool_calls[0].function.arguments | tojson + '<|call|>' }}"
    "{% elif m.role == 'tool' %}{{ '<|start|>' + ns.name + '<|message|>' + m.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content }}"
    "{{ '<|return|>' if m.role == 'assistant' else '<|end|>' }}{% endif %}{% endfor %}"
    "{{ '<|start|>assistant' if add_generation_prompt else '' }}"
)
HARMONY_TOKENS = ["<|start|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]
OPENS_NEXT = (  # Command R7B's way: behind a call the next answer is opened without being asked
    "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ '<|user|>' if m.role == 'user' else '<|bot|>' }}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name + c.function.arguments | tojson + '<|call|>' }}{% endfor %}{{ '<|end|>' }}{% endfor %}"
    "{{ '<|bot|>' if add_generation_prompt or messages[-1].tool_calls else '' }}"
)
AS_PYTHON = CHATML.replace('["arguments"] | tojson', '["arguments"] | string')
OTHER_END = LLAMA_LIKE.replace("tojson + '}<|eot_id|>'", "tojson + '}<|eom_id|>'")
DROPS_CALLS = CHATML[CHATML.index("{%- for message") :].replace('message["tool_calls"] or []', "[]")
DROPS_DEFINITIONS = CHATML[CHATML.index("{%- for message") :].replace("if tools and", "if false and")

LLAMA_TOKENS = ["<bos>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"]
KINDS: dict[str, tuple[str, list[str], str]] = {
    "llama": (LLAMA_LIKE, LLAMA_TOKENS, "<|eot_id|>"),
    "qwen": (QWEN_LIKE, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "mistral": (MISTRAL_LIKE, ["<bos>", "<eos>", "[INST]", "[/INST]", "[TOOL_CALLS]"], "<eos>"),
    "chatml": (CHATML, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
    "plain": (PLAIN, ["<eos>"], "<eos>"),
}

TOOLS = [
    {"type": "function", "function": {"name": "find", "description": 'looks "it" up', "parameters": {"type": "object"}}}
]


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def calls(*made: dict[str, Any], content: str = "") -> Message:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


TALK = [
    said("user", "where is the lamp?"),
    calls(call("find", thing="lamp", floors=[1, 2], note='a "b"\n é')),
    said("tool", '{"place": "attic"}'),
    said("assistant", "In the attic."),
]


def texts(kind: str, messages: Sequence[Message], *, tools: Any = TOOLS, flags: list[bool] | None = None) -> list[str]:
    template, special, _ = KINDS[kind]
    chat = opened(template, byte_level(special))
    (row,) = rows_of(chat, [Dialogue(messages, tools, flags)])
    assert isinstance(row, EncodedRow), row
    expected = chat.tokenizer.encode(chat.turns.template.render(messages, tools=tools), add_special_tokens=False)
    assert row.input_ids.tolist() == expected.ids
    return trained(chat, row)


@pytest.mark.parametrize("kind", KINDS)
def test_calls_and_answers_alone_are_trained_whatever_the_template_makes_of_tools(kind: str) -> None:
    end = KINDS[kind][2]
    first, second = texts(kind, TALK)
    assert second.strip() == "In the attic." + end
    assert first.endswith(end)
    arguments = json.loads(first[first.index("{") : first.rindex("}") + 1])
    arguments = arguments.get("arguments", arguments.get("parameters"))
    assert arguments == {"thing": "lamp", "floors": [1, 2], "note": 'a "b"\n é'}
    for foreign in ("attic", "looks", "where", "header", "im_start", "INST", "Assistant"):
        assert foreign not in first


@pytest.mark.parametrize("kind", KINDS)
def test_calls_in_a_dialogue_with_many_turns_are_all_trained(kind: str) -> None:
    messages = [
        said("user", "hi"),
        said("assistant", "hello"),
        *TALK,
        said("user", "and the key?"),
        calls(call("find", thing="key")),
        said("tool", "none"),
        said("assistant", "hello"),
    ]
    found = texts(kind, messages)
    if kind == "mistral":
        # its definitions stand before the last question alone: what stood before the first answers at inference is not there
        assert [text.strip() for text in found[1:]] == ["hello<eos>"]
        assert "key" in found[0]
        return
    assert len(found) == 5
    assert [text.strip().removesuffix(KINDS[kind][2]) for text in found][0::2] == ["hello", "In the attic.", "hello"]
    assert ["lamp" in found[1], "key" in found[3]] == [True, True]


@pytest.mark.parametrize("kind", ["qwen", "chatml", "plain"])
def test_text_beside_parallel_calls_is_trained_with_them(kind: str) -> None:
    messages = [
        said("system", "be brief"),
        said("user", "where?"),
        calls(call("find", thing="lamp"), call("find", thing="key"), content="I look."),
        said("tool", "attic"),
        said("tool", "cellar"),
        said("assistant", "Up and down."),
    ]
    first, second = texts(kind, messages)
    assert first.startswith("I look.\n")
    assert first.count('"find"') == 2
    assert second == "Up and down." + KINDS[kind][2]


@pytest.mark.parametrize("kind", KINDS)
def test_dialogue_may_end_with_a_call_and_call_without_definitions(kind: str) -> None:
    (only,) = texts(kind, TALK[:2], tools=None)
    assert '"lamp"' in only
    assert only.endswith(KINDS[kind][2])


@pytest.mark.parametrize("kind", KINDS)
def test_plain_dialogue_with_definitions_trains_its_answers_only(kind: str) -> None:
    assert [text.strip() for text in texts(kind, [said("user", "hi"), said("assistant", "yes")])] == [
        "yes" + KINDS[kind][2]
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_call_of_weight_0_is_context(kind: str) -> None:
    (only,) = texts(kind, TALK, flags=[True, False, True, True])
    assert only.strip() == "In the attic." + KINDS[kind][2]


def test_call_that_ends_with_another_token_is_trained_up_to_that_token() -> None:
    chat = opened(OTHER_END, byte_level(LLAMA_TOKENS))
    (row,) = rows_of(chat, [Dialogue(TALK, TOOLS)])
    assert isinstance(row, EncodedRow), row
    first, second = trained(chat, row)
    assert first.endswith("}<|eom_id|>")
    assert second == "In the attic.<|eot_id|>"


@pytest.mark.parametrize(
    ("template", "messages", "tools", "rule"),
    [
        (LLAMA, TALK, TOOLS, "tools_not_rendered"),
        (LLAMA, TALK, None, "tools_not_rendered"),
        (DROPS_CALLS, TALK, None, "call_not_rendered"),
        (DROPS_DEFINITIONS, TALK, TOOLS, "tools_not_rendered"),
        (LLAMA_LIKE, [said("user", "q"), calls(call("a"), call("b"))], None, "tools_not_rendered"),
        (LLAMA_LIKE, [said("user", "q"), calls(call("a"), content="beside")], None, "text_beside_call_not_rendered"),
        (
            CHATML.replace('message["content"] }}', '("" if message["role"] == "tool" else message["content"]) }}'),
            TALK,
            TOOLS,
            "turn_not_rendered",
        ),
    ],
)
def test_dialogue_whose_tools_the_template_does_not_show_is_refused(
    template: str, messages: list[Message], tools: Any, rule: str
) -> None:
    chat = opened(template, byte_level([*LLAMA_TOKENS, "<|im_start|>", "<|im_end|>"]))
    assert rows_of(chat, [Dialogue(messages, tools)]) == [rule]


def test_answers_that_do_not_stand_in_their_order_are_refused_as_unverified() -> None:
    """Each is found by itself; together they would train an answer on what it had not seen yet."""
    chat = opened(LATEST_FIRST, byte_level(["<|im_start|>", "<|im_end|>"]))
    one_answer = [said("user", "hi"), said("assistant", "hello")]
    two_answers = [*one_answer, said("user", "and?"), said("assistant", "yes")]
    one, two = rows_of(chat, [Dialogue(one_answer, TOOLS), Dialogue(two_answers, TOOLS)])
    assert one == "prompt_differs"
    assert two == "spans_unverified"


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        ([*TALK[:2], said("tool", "x<|im_end|>"), TALK[3]], TOOLS),
        ([TALK[0], calls(call("find", thing="<|im_start|>")), *TALK[2:]], TOOLS),
        ([TALK[0], calls(call("<|im_end|>")), *TALK[2:]], TOOLS),
        (TALK, [{"type": "function", "function": {"name": "find", "description": "<|im_end|>"}}]),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_control_token_anywhere_in_a_dialogue_with_tools_is_refused(
    messages: list[Message], tools: Any, split: bool
) -> None:
    chat = opened(CHATML, byte_level(["<|im_start|>", "<|im_end|>"]))
    assert rows_of(chat, [Dialogue(messages, tools)], split=split) == ["control_token_in_content"]


def test_what_a_tool_gave_back_is_never_trained_where_it_stands_inside_the_answer() -> None:
    chat = opened(GEMMA_4_LIKE, byte_level(["<|im_start|>", "<|im_end|>", "<|call|>", "<|called|>"]))
    beside = [TALK[0], {**TALK[1], "content": "I look."}, *TALK[2:]]
    bare, both = rows_of(chat, [Dialogue(TALK, TOOLS), Dialogue(beside, TOOLS)])
    assert isinstance(bare, EncodedRow), bare
    call_text, answer = trained(chat, bare)
    assert call_text.startswith("<|call|>find{")
    assert call_text.endswith("}<|called|>")
    assert answer == "In the attic.<|im_end|>"
    assert both == "text_beside_call_not_rendered"


@pytest.mark.parametrize("thought", [None, "It is a lamp."])
def test_call_that_is_written_in_another_way_once_it_is_answered_does_not_cost_the_row(thought: str | None) -> None:
    chat = opened(HARMONY_LIKE, byte_level(HARMONY_TOKENS))
    messages = [TALK[0], {**TALK[1], **({"reasoning": thought} if thought else {})}, *TALK[2:]]
    whole, asked = rows_of(chat, [Dialogue(messages, TOOLS), Dialogue(messages[:2], TOOLS)])
    assert isinstance(whole, EncodedRow), whole
    *before, answer = trained(chat, whole)
    assert answer == "<|message|>In the attic.<|return|>"
    assert whole.context == (("reasoning_dropped",) if thought else ())
    assert isinstance(asked, EncodedRow), asked
    (call_text,) = trained(chat, asked)
    assert call_text.endswith("}<|call|>")
    assert before == ([] if thought else [call_text])
    assert (thought or "find") in call_text


def test_call_that_a_template_extends_with_the_next_answers_header_ends_before_it() -> None:
    chat = opened(OPENS_NEXT, byte_level(["<|user|>", "<|bot|>", "<|call|>", "<|end|>"]))
    (row,) = rows_of(chat, [Dialogue(TALK[:2], TOOLS)])
    assert isinstance(row, EncodedRow), row
    (call_text,) = trained(chat, row)
    assert call_text.endswith("}<|call|>")


def test_arguments_that_a_template_writes_as_python_does_are_found() -> None:
    chat = opened(AS_PYTHON, byte_level(["<|im_start|>", "<|im_end|>"]))
    messages = [TALK[0], calls(call("find", thing='a "b" \\ \n é'))]
    (row,) = rows_of(chat, [Dialogue(messages, TOOLS)])
    assert isinstance(row, EncodedRow), row
    assert repr('a "b" \\ \n é') in trained(chat, row)[0]


@pytest.mark.parametrize("thinks", [False, True])
def test_thought_is_named_where_it_is_for_it_that_a_row_with_calls_is_refused(thinks: bool) -> None:
    refuses = HARMONY_LIKE.replace(
        "{% if m.tool_calls %}", "{% if m.tool_calls %}{{ raise_exception('both') if m.thinking and m.content }}"
    )
    chat = opened(refuses, byte_level(HARMONY_TOKENS))
    thought = {"reasoning": "It is a lamp."} if thinks else {}
    whole, last = ([TALK[0], {**TALK[1], "content": "Beside.", **thought}, *TALK[2:count]] for count in (4, 2))
    rule = "text_beside_call_not_rendered"
    assert rows_of(chat, [Dialogue(whole, TOOLS), Dialogue(last, TOOLS)]) == [rule, rule]
    says_both = opened(
        refuses.replace("'<|start|>assistant to=' + ns.name", "'<|start|>assistant to=' + ns.name + m.content"),
        chat.tokenizer,
    )
    (row,) = rows_of(says_both, [Dialogue(last, TOOLS)])
    assert row == "reasoning_not_rendered" if thinks else isinstance(row, EncodedRow)


def test_turns_before_the_last_answer_are_not_written_once_more_where_the_prompt_has_them_in_another_way() -> None:
    """With a longer prompt what the template writes of an answered call stands in no prompt: it must not be trained behind it."""
    channels = HARMONY_LIKE.replace("+ m.role + '<|message|>'", "+ m.role + '<|channel|>final<|message|>'")
    channels = channels.replace(
        "assistant<|message|>' + m.thinking", "assistant<|channel|>analysis<|message|>' + m.thinking"
    )
    chat = opened(
        channels.replace("m.thinking and loop.last", "m.thinking and (loop.last or not answered)").replace(
            "{% for m in messages %}",
            "{% set answered = messages[-1].role == 'assistant' and not messages[-1].tool_calls %}{% for m in messages %}",
            1,
        ),
        byte_level([*HARMONY_TOKENS, "<|channel|>"]),
        prompt="extend_prompt",
    )
    messages = [TALK[0], {**TALK[1], "reasoning": "It is a lamp."}, *TALK[2:]]
    (row,) = rows_of(chat, [Dialogue(messages, TOOLS)])
    assert row == "prompt_differs"
