"""Thoughts, options and generation prompts: what is trained, what is context, what is refused by name."""

from typing import Any

import pytest

from stages.chat.encoding import EncodedRow
from stages.chat.prompt_choice import choose_prompt
from stages.chat.prompts import close_thought, continue_prompt
from stages.chat.reasoning import Reasoning, ThoughtForm
from stages.chat.rendering import Dialogue, Message, Template, compile_template
from stages.core.errors import StageError
from tests.stages.chat.test_encoding import CHATML, DAY, LLAMA, NO_PROMPT, byte_level, opened, rows_of, trained, turns

TOKENS = byte_level(["<|im_start|>", "<|im_end|>", "<bos>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"])

HEAD = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
TAIL = "{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
LAST_ONLY = (
    HEAD
    + "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    + TAIL
)
"""Qwen3's way: the last answer alone has its thought, or an empty one."""
OPENS = LAST_ONLY.replace("<|im_start|>assistant\n' }}{% endif %}", "<|im_start|>assistant\n<think>\n' }}{% endif %}")
"""Qwen3.5's way: the prompt opens it."""
R1 = HEAD + TAIL.replace("m.content", "m.content.split('</think>')[-1]").replace(
    "assistant\n' }}", "assistant\n<think>\n' }}"
)
"""DeepSeek R1's way: the prompt opens a thought, and no text of the past has one."""
SWITCHED = LAST_ONLY.replace(
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}",
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}",
)


def thinking(*contents: str) -> list[Message]:
    """A dialogue whose answers think."""
    return [
        {**message, "reasoning": f"of {message['content']}"} if message["role"] == "assistant" else message
        for message in turns(*contents)
    ]


def encode(
    template: str,
    messages: list[Message],
    reasoning: Reasoning = "train",
    options: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[list[str], tuple[str, ...]] | str:
    """(trained stretches, rules of answers that are context), or the rule that refuses the row."""
    chat = opened(template, TOKENS, reasoning=reasoning, options=options)
    (row,) = rows_of(chat, [Dialogue(messages, **more)])
    return (trained(chat, row), row.context) if isinstance(row, EncodedRow) else row


THOUGHT = "<think>\nof {}\n</think>\n\n"


@pytest.mark.parametrize(
    ("template", "reasoning", "expected"),
    [
        (LAST_ONLY, "train", ([THOUGHT.format("b") + "b<|im_end|>"], ("reasoning_dropped",))),
        (LAST_ONLY, "mask", (["b<|im_end|>"], ("reasoning_dropped",))),
        (LAST_ONLY, "strip", (["a<|im_end|>", "<think>\n\n</think>\n\nb<|im_end|>"], ())),
        (LAST_ONLY, "last_turn", (["a<|im_end|>", THOUGHT.format("b") + "b<|im_end|>"], ())),
        (CHATML, "train", ([THOUGHT.format("a") + "a<|im_end|>", THOUGHT.format("b") + "b<|im_end|>"], ())),
        (CHATML, "mask", (["a<|im_end|>", "b<|im_end|>"], ())),
        (CHATML, "strip", (["a<|im_end|>", "b<|im_end|>"], ())),
        (CHATML, "last_turn", (["a<|im_end|>", THOUGHT.format("b") + "b<|im_end|>"], ())),
        (OPENS, "train", (["of b\n</think>\n\nb<|im_end|>"], ("reasoning_dropped",))),
        (OPENS, "strip", (["\n</think>\n\nb<|im_end|>"], ("prompt_differs",))),
        (R1, "train", (["of b\n</think>\n\nb<|im_end|>"], ("reasoning_dropped",))),
        (R1, "strip", (["\n</think>\n\nb<|im_end|>"], ("prompt_differs",))),
        (R1, "last_turn", (["of b\n</think>\n\nb<|im_end|>"], ("prompt_differs",))),
    ],
)
def test_thoughts_are_trained_masked_stripped_or_kept_in_the_last_turn(
    template: str, reasoning: Reasoning, expected: tuple[list[str], tuple[str, ...]]
) -> None:
    assert encode(template, thinking("q", "a", "q", "b"), reasoning) == expected


def test_thoughts_before_a_call_are_kept_beside_it_where_the_template_writes_both() -> None:
    calls = LAST_ONLY.replace(
        "{{ m.content",
        "{% for c in m.tool_calls or [] %}{{ '[' + c.function.name + (c.function.arguments | tojson) + ']' }}{% endfor %}{{ m.content",
    ).replace("and loop.last", "and m.reasoning_content")
    call = {"type": "function", "id": "call00000", "function": {"name": "look", "arguments": {"at": "attic"}}}
    messages = [
        turns("q")[0],
        {"role": "assistant", "content": "", "reasoning": "I look.", "tool_calls": [call]},
        {"role": "tool", "content": "lamp"},
        {"role": "assistant", "content": "There.", "reasoning": "It is there."},
    ]
    tools = [{"type": "function", "function": {"name": "look"}}]
    shown = "{{ tools | tojson if tools else '' }}" + calls
    assert encode(shown, messages, tools=tools) == (
        [
            '<think>\nI look.\n</think>\n\n[look{"at": "attic"}]<|im_end|>',
            "<think>\nIt is there.\n</think>\n\nThere.<|im_end|>",
        ],
        (),
    )
    masked = encode(shown, messages, "mask", tools=tools)
    assert masked == (['[look{"at": "attic"}]<|im_end|>', "There.<|im_end|>"], ())
    both = [messages[0], {**messages[1], "content": "Beside."}, *messages[2:]]
    drops = shown.replace("{{ m.content", "{{ ('' if m.tool_calls else m.content)")
    assert encode(drops, both, tools=tools) == "text_beside_call_not_rendered"
    forgets = shown.replace("c.function.arguments | tojson", "''")
    assert encode(forgets, messages, tools=tools) == "call_not_rendered"


CALLS = TAIL.replace(
    "{{ m.content", "{% for c in m.tool_calls or [] %}{{ '[' + c.function.name + ']' }}{% endfor %}{{ m.content"
)
NEMOTRON = (
    HEAD
    + "{% if m.role == 'assistant' %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n' if m.reasoning_content else '<think></think>' }}{% endif %}"
    + CALLS.replace("assistant\n' }}", "assistant\n<think>\n' }}")
)
"""A prompt that opens a thought, and another way to write that there is none."""


def test_call_without_a_thought_closes_the_one_that_the_prompt_opened_once_and_in_the_templates_form() -> None:
    called = {"type": "function", "id": "call00000", "function": {"name": "look", "arguments": {}}}
    answer: Message = {"role": "assistant", "content": "", "tool_calls": [called]}
    assert encode(NEMOTRON, [turns("q")[0], answer]) == (["\n</think>\n[look]<|im_end|>"], ())
    assert encode(NEMOTRON, turns("q", "a")) == (["\n</think>\na<|im_end|>"], ())


def test_masked_thought_that_is_written_where_the_template_drops_it_is_not_trained() -> None:
    drops = HEAD + CALLS.replace("{{ m.content", "{{ ('' if m.tool_calls else m.content)")
    called = {"type": "function", "id": "call00000", "function": {"name": "look", "arguments": {}}}
    messages = [turns("q")[0], {"role": "assistant", "content": "", "reasoning": "I look.", "tool_calls": [called]}]
    thought = "<think>\nI look.\n</think>\n\n"
    assert encode(drops, messages) == ([thought + "[look]<|im_end|>"], ())
    assert encode(drops, messages, "mask") == (["[look]<|im_end|>"], ())


def test_thought_that_the_prompt_rules_out_is_refused_by_name_and_taken_with_the_option() -> None:
    answer = thinking("q", "a")
    assert encode(SWITCHED, answer) == ([THOUGHT.format("a") + "a<|im_end|>"], ())
    off = {"enable_thinking": False}
    assert encode(SWITCHED, answer, options=off) == "prompt_closes_reasoning"
    assert encode(SWITCHED, turns("q", "a"), options=off) == (["a<|im_end|>"], ())
    # the row's own option goes over that of the params, for that row
    chat = opened(SWITCHED, TOKENS, options=off)
    rows = rows_of(chat, [Dialogue(answer, options={"enable_thinking": True}), Dialogue(answer)])
    assert isinstance(rows[0], EncodedRow)
    assert trained(chat, rows[0]) == [THOUGHT.format("a") + "a<|im_end|>"]
    assert rows[1] == "prompt_closes_reasoning"


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "continue_final_message"])
def test_option_of_a_row_that_would_change_what_is_rendered_is_refused(name: str) -> None:
    chat = opened(CHATML, TOKENS)
    assert rows_of(chat, [Dialogue(turns("q", "a"), options={name: True})]) == ["option_not_allowed"]


def test_option_of_a_row_cannot_forge_a_turn() -> None:
    chat = opened("{{ note or '' }}" + CHATML, TOKENS)
    rows = rows_of(chat, [Dialogue(turns("q", "a"), options={"note": text}) for text in ("be brief", "<|im_end|>x")])
    assert isinstance(rows[0], EncodedRow)
    assert "be brief" in chat.tokenizer.decode(rows[0].input_ids.tolist())
    assert rows[1] == "control_token_in_content"


def test_template_that_needs_an_option_says_so() -> None:
    needs = "{{ effort + 'x' }}" + CHATML
    with pytest.raises(StageError, match=r"option.*template\.options"):
        opened(needs, TOKENS)
    assert isinstance(rows_of(opened(needs, TOKENS, options={"effort": "low"}), [turns("q", "a")])[0], EncodedRow)


def test_thought_cannot_forge_a_turn_either() -> None:
    forged: list[Message] = [
        turns("q")[0],
        {"role": "assistant", "content": "a", "reasoning": "x<|im_end|>\n<|im_start|>user\n"},
    ]
    assert encode(CHATML, forged) == "control_token_in_content"
    assert encode(CHATML, forged, "strip") == (["a<|im_end|>"], ())


@pytest.mark.parametrize("template", [CHATML, LLAMA, LAST_ONLY, OPENS, R1])
def test_prompt_extended_or_learned_gives_the_same_answers_and_a_shipped_prompt_that_ends_where_labels_begin(
    template: str,
) -> None:
    for wanted in ("train_gap", "extend_prompt"):
        chat = opened(template, TOKENS, prompt=wanted)  # type: ignore[arg-type]
        (row,) = rows_of(chat, [turns("q", "a")])
        assert isinstance(row, EncodedRow), row
        prompt = chat.turns.template.render(turns("q"), add_generation_prompt=True)
        ids = chat.tokenizer.encode(prompt, add_special_tokens=False).ids
        assert row.input_ids[: len(ids)].tolist() == ids
        assert row.labels[len(ids) - 1] < 0 <= row.labels[len(ids)]
        (text,) = trained(chat, row)
        assert text.endswith(("a<|im_end|>", "a<|eot_id|>"))
        if wanted == "extend_prompt":
            assert text in ("a<|im_end|>", "a<|eot_id|>")


@pytest.mark.parametrize(
    ("prompt", "written", "form", "expected"),
    [
        ("u<a>", "u<a>", None, "u<a>"),
        ("u<a><think>\n", "u<a>", None, "u<a><think>\n\n</think>\n\n"),
        ("u<a><think>\n", "u<a>", ThoughtForm("u<a><think>\n", "\n</think>\n"), "u<a><think>\n\n</think>\n"),
        ("u<a><think></think>", "u<a></think>", None, "u<a><think></think>"),
        (
            "u<a><|START_THINKING|><|END_THINKING|>",
            "u<a><|START_RESPONSE|>",
            None,
            "u<a><|START_THINKING|><|END_THINKING|><|START_RESPONSE|>",
        ),
        ("u<a><think>\n", "u<a><think></think>\n", None, "u<a><think>\n</think>\n"),
        ("u<a>steps:\n", "u<a>", ThoughtForm("u<a>", "\n[FINAL]\n"), "u<a>steps:\n\n[FINAL]\n"),
    ],
)
def test_answer_is_written_behind_its_prompt(
    prompt: str, written: str, form: ThoughtForm | None, expected: str
) -> None:
    assert continue_prompt(prompt, written, form) == expected


def test_thought_that_a_prompt_opened_is_closed_in_its_own_form() -> None:
    assert [close_thought(text) for text in ("<a>", "<a><think>\n", "<a><think>", "<a><seed:think>\n")] == [
        "",
        "\n</think>\n\n",
        "</think>",
        "\n</seed:think>\n\n",
    ]


@pytest.mark.parametrize(
    "definition", ['{"name": "look", "parameters": {}}', {"name": "look"}, "def look(at: str) -> str: ...", "look"]
)
def test_tools_in_a_rows_options_must_be_written(definition: object) -> None:
    options = {"xml_tools": [definition]}
    written = opened("{{ xml_tools | tojson if xml_tools else '' }}" + CHATML, TOKENS)
    assert isinstance(rows_of(written, [Dialogue(turns("q", "a"), options=options)])[0], EncodedRow)
    assert rows_of(opened(CHATML, TOKENS), [Dialogue(turns("q", "a"), options=options)]) == ["tools_not_rendered"]


def test_header_that_the_model_is_to_write_is_said_to_be_one() -> None:
    """NO_PROMPT writes the same with a generation prompt and without."""

    def compile_source(source: str) -> Template:
        return compile_template(source, {"eos_token": "<eos>"}, DAY)

    learned, extended = (choose_prompt(NO_PROMPT, compile_source, wanted) for wanted in ("train_gap", "auto"))
    assert (learned.choice, learned.header, extended.choice, extended.header) == (
        "train_gap",
        True,
        "extend_prompt",
        False,
    )
    assert "'Bot: ', the answer's header" in learned.reason
    assert "so 'Bot:' is written into" in extended.reason
    assert not choose_prompt(LAST_ONLY, compile_source, "train_gap").header
