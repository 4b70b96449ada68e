"""Layouts with a whole conversation in one text, as a chat template writes it: ChatML, Llama, Gemma and others. Pure functions.

A text is taken apart whole or not at all: what stands outside of any turn, or a turn without its end, sets the row aside.
"""

import re
from collections.abc import Callable, Mapping
from functools import cache, partial

from stages.conversations.dialects import SYSTEM_COLUMNS, Dialect, Row, Turn
from stages.conversations.glaive import is_glaive, read_glaive, read_glaive_tools
from stages.conversations.message_lists import system_turns
from stages.conversations.row_rules import LAYOUT, TRANSCRIPT_UNREADABLE, Rejected

TEXT_COLUMNS = (
    *("text", "chat", "sample", "conversation", "conversations", "messages", "dialogue", "dialog"),
    *("content", "prompt", "formatted", "formatted_text", "document"),
)
"""Columns that may hold such a text, the first that does."""

ROLE = r"(?P<role>[^\n<|]{1,40})"

MARKED: Mapping[str, tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]] = {
    "ChatML": (
        re.compile(r"\s*(?:<s>|<\|begin_of_text\|>|<\|endoftext\|>)?(?=<\|im_start\|>)"),
        re.compile(rf"<\|im_start\|>{ROLE}\n(?P<content>.*?)<\|im_end\|>\s*", re.DOTALL),
        re.compile(r"<\|im_start\|>"),
    ),
    "Llama 3": (
        re.compile(r"\s*(?:<\|begin_of_text\|>)?(?=<\|start_header_id\|>)"),
        re.compile(
            rf"<\|start_header_id\|>{ROLE}<\|end_header_id\|>\n?\n?(?P<content>.*?)(?:<\|eot_id\|>|<\|eom_id\|>|<\|end_of_text\|>)+\s*",
            re.DOTALL,
        ),
        re.compile(r"<\|start_header_id\|>"),
    ),
    "Gemma": (
        re.compile(r"\s*(?:<bos>)?(?=<start_of_turn>)"),
        re.compile(rf"<start_of_turn>{ROLE}\n(?P<content>.*?)<end_of_turn>\s*(?:<eos>\s*)?", re.DOTALL),
        re.compile("<start_of_turn>"),
    ),
    "Zephyr": (
        re.compile(r"\s*(?:<s>\s*)?(?=<\|(?:system|user)\|>)"),
        re.compile(
            r"<\|(?P<role>system|user|assistant)\|>\n?(?P<content>.*?)(?:</s>|<\|end\|>|<\|endoftext\|>)+\s*", re.DOTALL
        ),
        re.compile(r"<\|(?:system|user|assistant)\|>"),
    ),
}
"""{form: (what a text begins with, one turn of it, the mark before a turn: it stands in no content)}."""

INSTRUCTED_BEGINNING = re.compile(r"\s*(?:<s>)?\s*\[INST\]")
INSTRUCTED = re.compile(
    r"\s*(?:<s>)?\s*\[INST\](?P<question>.*?)\[/INST\](?P<answer>.*?)(?:</s>|(?=<s>|\[INST\])|\Z)", re.DOTALL
)
SYSTEM = re.compile(r"\s*<<SYS>>(?P<system>.*?)<</SYS>>", re.DOTALL)
SPOKEN = re.compile(r"### (?P<role>Human|Assistant|System|User):")
SPOKEN_BEGINNING = re.compile(r"\s*### (?:Human|System|User):")
DATES = re.compile(r"Cutting Knowledge Date: [^\n]*\nToday Date: [^\n]*\n+")
"""What Llama 3's template writes into the system's message by itself, and would write again."""


def find_transcript_dialect(row: Row) -> Dialect | None:
    """The dialect of the first column that holds such a text; None if none does."""
    for column in TEXT_COLUMNS:
        text = row.get(column)
        if isinstance(text, str) and (form := find_form(text)):
            return transcript_dialect(column, form)
    return None


def find_form(text: str) -> str | None:
    """The form of a text, by how it begins; None: it has none of those that are known."""
    for form, (beginning, _, _) in MARKED.items():
        if beginning.match(text):
            return form
    if INSTRUCTED_BEGINNING.match(text) and "[/INST]" in text:
        return "Llama 2"
    if SPOKEN_BEGINNING.match(text) and "### Assistant:" in text:
        return "### Human"
    return "USER/ASSISTANT" if is_glaive(text) else None


@cache
def transcript_dialect(column: str, form: str) -> Dialect:
    """Texts of one form in `column`."""
    read = READERS.get(form, partial(read_marked, form=form))
    return Dialect(
        f"{column}: text in {form} form",
        partial(transcript_turns, column=column, read=read),
        frozenset({column, *SYSTEM_COLUMNS}),
        tools=partial(read_glaive_tools, column=column) if form == "USER/ASSISTANT" else None,
    )


def transcript_turns(row: Row, *, column: str, read: Callable[[str], list[Turn]]) -> list[Turn]:
    """The turns that a text holds, after the row's system column. Raises Rejected where it does not divide whole."""
    text = row.get(column)
    if not isinstance(text, str):
        raise Rejected(LAYOUT)
    system = system_turns(row, SYSTEM_COLUMNS)
    if system and isinstance(system[0].content, str) and is_glaive(system[0].content):
        return read(f"{system[0].content.strip()}\n\n{text}")
    return [*system, *read(text)]


def read_marked(text: str, form: str) -> list[Turn]:
    """The turns of a text in which each has a mark before and behind it."""
    beginning, turn, mark = MARKED[form]
    begun = beginning.match(text)
    at, turns = begun.end() if begun else 0, []
    while at < len(text):
        found = turn.match(text, at)
        if found is None or mark.search(found["content"]):
            raise Rejected(TRANSCRIPT_UNREADABLE)
        role, content, at = found["role"].strip(), found["content"], found.end()
        if role == "system" and form == "Llama 3":
            content = DATES.sub("", content, count=1)
        if role != "system" or content:
            turns.append(Turn(role, content, None))
    return turns


def read_instructed(text: str) -> list[Turn]:
    """The turns of a text of `[INST] question [/INST] answer </s>`; the blanks at their edges are the form's."""
    at, turns = 0, list[Turn]()
    text = text.rstrip()
    while at < len(text):
        found = INSTRUCTED.match(text, at)
        if found is None or "[INST]" in found["question"] or "[/INST]" in found["answer"]:
            raise Rejected(TRANSCRIPT_UNREADABLE)
        question, at = found["question"], found.end()
        if not turns and (system := SYSTEM.match(question)):
            turns.append(Turn("system", system["system"].strip(), None))
            question = question[system.end() :]
        turns += [Turn("user", question.strip(), None), Turn("assistant", found["answer"].strip(), None)]
    return turns


def read_spoken(text: str) -> list[Turn]:
    """The turns of a text of `### Human: question### Assistant: answer`; the blanks at their edges are the form's."""
    marks = list(SPOKEN.finditer(text))
    if not marks or text[: marks[0].start()].strip():
        raise Rejected(TRANSCRIPT_UNREADABLE)
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return [
        Turn(mark["role"].lower(), text[mark.end() : end].strip(), None) for mark, end in zip(marks, ends, strict=True)
    ]


READERS: Mapping[str, Callable[[str], list[Turn]]] = {
    "Llama 2": read_instructed,
    "### Human": read_spoken,
    "USER/ASSISTANT": read_glaive,
}
"""Those of the forms without a mark behind each turn."""
