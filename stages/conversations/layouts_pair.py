"""Layouts with the question and its answer in columns of their own. Pure functions."""

from collections.abc import Iterator
from functools import cache, partial

from stages.conversations.dialects import HISTORY, KEYS, SYSTEM_COLUMNS, Dialect, Row, Turn, is_list_of_messages
from stages.conversations.message_lists import history_turns, is_written_chat, side_turns, system_turns
from stages.conversations.row_rules import CONTENT_NOT_TEXT, LAYOUT, Rejected
from stages.conversations.weights import DETAIL, WEIGHTS

PAIR_COLUMNS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("question", "response"),
    ("query", "response"),
    ("query", "answer"),
    ("input", "output"),
)
RARE_PAIR_COLUMNS = (
    ("user", "assistant"),
    ("human", "assistant"),
    ("user", "final"),
    ("question", "attempt"),
    ("question", "deepseek_attempt"),
    ("question", "gemini_attempt"),
    ("problem", "solution"),
    ("input_text", "output_text"),
)
"""Looked for where no other layout fits."""

INSTRUCTION_COLUMNS = (("input", "output"), ("context", "response"), ("input", "response"))
"""Beside `instruction`: what it is about (may be missing) and the answer."""

CONTEXT_COLUMNS = ("context", "passage")
"""What a `question` or `query` is about."""

REASONING_OF = {
    "attempt": "thinking_trajectories",
    "deepseek_attempt": "deepseek_thinking_trajectory",
    "gemini_attempt": "gemini_thinking_trajectory",
    "final": "analysis",
}
"""{answer's column: the column of the thoughts before it}."""

REASONING_COLUMNS = ("reasoning_content", "reasoning", "thinking", "complex_cot", "chain_of_thought", "cot")
"""Columns of the thoughts before an answer in any other column."""

SWITCHES = frozenset({"on", "off", "true", "false", "yes", "no", "none", "low", "medium", "high"})
"""What such a column holds where it says whether, or how much, there was thought."""


def find_pair_dialects(row: Row) -> Iterator[Dialect]:
    """The dialects of the question and answer columns that a row has."""
    if isinstance(row.get("instruction"), str):
        fits = [pair for pair in INSTRUCTION_COLUMNS if isinstance(row.get(pair[1]), str)]
        yield from [instruction_dialect(*pair) for pair in fits if pair[0] in row] or [
            instruction_dialect(*pair) for pair in fits[:1]
        ]
        if fits:
            return
    yield from fit_pairs(row, PAIR_COLUMNS)


def find_rare_pair_dialects(row: Row) -> Iterator[Dialect]:
    """The dialects of rarer columns, and of those whose answers are numbers."""
    found = [*fit_pairs(row, RARE_PAIR_COLUMNS)]
    numbers = {name: str(value) for name, value in row.items() if isinstance(value, int | float)}
    yield from found or (find_pair_dialects({**row, **leave_questions_out(numbers)}) if numbers else ())


def leave_questions_out(numbers: dict[str, str]) -> dict[str, str]:
    """Columns that can hold an answer: no question is a number."""
    questions = {prompt for prompt, _ in PAIR_COLUMNS} | {"instruction"}
    return {name: text for name, text in numbers.items() if name not in questions}


def fit_pairs(row: Row, pairs: tuple[tuple[str, str], ...]) -> Iterator[Dialect]:
    """The dialects of those pairs of columns that a row has."""
    for prompt, answer in pairs:
        if is_side(row.get(prompt)) and is_side(row.get(answer)):
            yield pair_dialect(
                prompt, answer, system_columns(prompt, answer), find_context(row, prompt), find_reasoning(row, answer)
            )


def system_columns(prompt: str, answer: str) -> tuple[str, ...]:
    """The columns of the system's message beside a pair."""
    return ("developer", *SYSTEM_COLUMNS) if (prompt, answer) == ("user", "final") else SYSTEM_COLUMNS


def find_context(row: Row, prompt: str) -> str | None:
    """The column of what the question is about; None if the row has none."""
    if prompt not in ("question", "query"):
        return None
    return next((name for name in CONTEXT_COLUMNS if isinstance(row.get(name), str)), None)


def find_reasoning(row: Row, answer: str) -> str | None:
    """The column of the thoughts before an answer; None if the row has none."""
    names = (REASONING_OF[answer],) if answer in REASONING_OF else REASONING_COLUMNS
    return next((name for name in names if name in row and can_be_thoughts(row[name])), None)


def can_be_thoughts(value: object) -> bool:
    """Whether a column that holds this may hold thoughts in other rows."""
    if isinstance(value, list):
        return all(isinstance(text, str) for text in value)
    return value is None or (isinstance(value, str) and not is_switch(value))


def is_switch(value: object) -> bool:
    """Whether this says that there was thought, and not what."""
    return isinstance(value, bool | int) or (isinstance(value, str) and value.strip().lower() in SWITCHES)


@cache
def pair_dialect(
    prompt: str, answer: str, system: tuple[str, ...], context: str | None = None, reasoning: str | None = None
) -> Dialect:
    """A question and its answer in two columns, each a text or a list of messages.

    Args:
        prompt: the question's column.
        answer: the answer's.
        system: the columns of the system's message, the first that holds one.
        context: the column of what the question is about.
        reasoning: the column of the thoughts before the answer.
    """
    turns = partial(pair_turns, prompt=prompt, answer=answer, system=system, context=context, reasoning=reasoning)
    names = [name for name in (prompt, context, reasoning, answer) if name]
    return Dialect("/".join(names), turns, frozenset({*names, *system, HISTORY}), KEYS)


@cache
def instruction_dialect(about: str, answer: str) -> Dialect:
    """Alpaca's columns, or Dolly's."""
    columns = frozenset({"instruction", about, answer, *SYSTEM_COLUMNS, HISTORY})
    return Dialect(
        f"instruction/{about}/{answer}", partial(instruction_turns, about=about, answer=answer), columns, KEYS
    )


def pair_turns(
    row: Row, *, prompt: str, answer: str, system: tuple[str, ...], context: str | None, reasoning: str | None
) -> list[Turn]:
    """A question and its answer in two columns, after the system's and the earlier turns.

    Answers that stand in a prompt are context: trainers of prompt/completion data put no loss on them.
    """
    if prompt not in row or answer not in row:
        raise Rejected(LAYOUT)
    asked = side_turns(row[prompt], "user")
    if is_list_of_messages(row[prompt]) or len(asked) > 1:
        asked = [turn if turn.role == "user" else turn._replace(beside=mark_as_context(turn.beside)) for turn in asked]
    if context and row.get(context) is not None:
        asked[-1] = asked[-1]._replace(content=join_question(asked[-1].content, row[context]))
    answered = side_turns(row[answer], "assistant")
    if reasoning and (thoughts := thoughts_in(row.get(reasoning))) is not None:
        answered[0] = answered[0]._replace(beside={**(answered[0].beside or {}), "reasoning": thoughts})
    return [*system_turns(row, system), *history_turns(row), *asked, *answered]


def thoughts_in(value: object) -> object:
    """The thoughts of a column: a text, or a list with one in it; None for nothing, or for a word that only says whether there were any."""
    if isinstance(value, list):
        if len(value) > 1:
            raise Rejected(CONTENT_NOT_TEXT)
        value = value[0] if value else None
    return None if value == "" or is_switch(value) else value


def mark_as_context(beside: Row | None) -> Row:
    """What stands beside a message, with a weight of 0."""
    return {**(beside or {}), **dict.fromkeys((*WEIGHTS, DETAIL)), "train": False}


def instruction_turns(row: Row, *, about: str, answer: str) -> list[Turn]:
    """instruction, a line break and what it is about (where there is something) as the question."""
    if "instruction" not in row or answer not in row:
        raise Rejected(LAYOUT)
    question = join_question(row["instruction"], row.get(about))
    pair = [Turn("user", question, None), Turn("assistant", row[answer], None)]
    return [*system_turns(row, SYSTEM_COLUMNS), *history_turns(row), *pair]


def join_question(question: object, about: object) -> object:
    """A question, a line break and what it is about, where there is something. Raises Rejected."""
    if about is None or about == "":
        return question
    if not isinstance(question, str) or not isinstance(about, str):
        raise Rejected(CONTENT_NOT_TEXT)
    return f"{question}\n{about}" if question else about


def is_side(value: object) -> bool:
    """Whether this can be one side of a pair."""
    return isinstance(value, str) or is_list_of_messages(value) or is_written_chat(value)
