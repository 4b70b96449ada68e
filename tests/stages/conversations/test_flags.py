import pyarrow as pa
import pytest

from stages.contracts.messages import SCHEMA
from stages.conversations.flags import find_flags, is_placeholder

Turn = tuple[str, str] | tuple[str, str, dict[str, str]]


def flags_of(*rows: list[Turn]) -> dict[int, list[str]]:
    plain = {"tool_calls": None, "reasoning": None, "train": True}
    messages = [
        [{"role": turn[0], "content": turn[1], **plain, **(turn[2] if len(turn) > 2 else {})} for turn in row]
        for row in rows
    ]
    return dict(find_flags(pa.array(messages, SCHEMA.field("messages").type)))


@pytest.mark.parametrize(
    "answer",
    ["n/a", " N/A. ", "-", "TODO", "[todo]", "\u2014", "...", "None", "**TBD**", "?", "null", "(not available)"],
)
def test_answer_that_is_none_is_flagged(answer: str) -> None:
    assert is_placeholder(answer)
    assert flags_of([("user", "what is it?"), ("assistant", answer)]) == {0: ["placeholder_answer"]}


@pytest.mark.parametrize("answer", ["no", "4", "Nan Goldin", ")", "N", "a todo list", "Yes.", ">", "+"])
def test_short_answer_is_not_flagged(answer: str) -> None:
    assert flags_of([("user", "what is it?"), ("assistant", answer)]) == {}


def test_placeholder_is_the_assistants_and_beside_no_call() -> None:
    call = {"tool_calls": '[{"type":"function","function":{"name":"f","arguments":{}}}]'}
    assert flags_of([("user", "n/a"), ("assistant", "-", call), ("tool", "n/a"), ("assistant", "It is 4 here.")]) == {}


def test_answer_that_is_its_question_is_flagged_whatever_its_case_and_edges() -> None:
    asked = "What is the capital of France?"
    assert flags_of(
        [("user", asked), ("assistant", "what is the  capital of france")],
        [("user", asked), ("assistant", f"{asked} Paris.")],
        [("user", "Hello"), ("assistant", "hello!")],
        [("system", asked), ("user", "x"), ("assistant", asked)],
        [("user", "one"), ("assistant", "two is more"), ("user", asked), ("assistant", asked)],
    ) == {0: ["answer_repeats_question"], 4: ["answer_repeats_question"]}


def test_personal_data_is_found_in_any_message_call_and_thought_and_html_in_what_is_said() -> None:
    address = "ann@mail.example.org"
    call = {"tool_calls": '[{"type":"function","function":{"name":"send","arguments":{"to":"ann@mail.example.org"}}}]'}
    assert flags_of(
        [("system", f"you are {address}"), ("user", "q"), ("assistant", "a")],
        [("user", "q"), ("assistant", "", call), ("tool", "<p>done</p>"), ("assistant", "a")],
        [("user", "q"), ("assistant", "a", {"reasoning": f"ask {address} or +49 30 1234567"})],
        [("user", "q"), ("assistant", "a")],
        [("user", "<p>q</p>"), ("assistant", f"a {address}")],
    ) == {
        0: ["email_address"],
        1: ["email_address"],
        2: ["email_address", "phone_number"],
        4: ["html_left_in", "email_address"],
    }


def test_no_rows_have_no_flags() -> None:
    assert flags_of() == {}
