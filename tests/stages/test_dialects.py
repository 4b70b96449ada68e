import pytest

from stages.dialects import LAYOUTS, mapped_chat, mapped_pair, recognize
from stages.errors import StageError
from stages.rules import Rejected

TURNS = [("user", "q"), ("assistant", "a")]


@pytest.mark.parametrize(
    ("row", "name", "pairs"),
    [
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "conversations: from/value",
            [("human", "q"), ("gpt", "a")],
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "messages: role/content",
            TURNS,
        ),
        (
            {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "conversations: role/content",
            TURNS,
        ),
        (
            {"dialog": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
            "dialog: role/content",
            TURNS,
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}], "system": "s"},
            "conversations: from/value",
            [("system", "s"), ("human", "q")],
        ),
        (
            {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'},
            "messages: role/content",
            TURNS,
        ),
        ({"instruction": "q", "output": "a"}, "instruction/input/output", TURNS),
        ({"instruction": "q", "input": "", "output": "a", "system": ""}, "instruction/input/output", TURNS),
        (
            {"instruction": "q", "input": "i", "output": "a"},
            "instruction/input/output",
            [("user", "q\ni"), ("assistant", "a")],
        ),
        (
            {"instruction": "", "input": "i", "output": "a"},
            "instruction/input/output",
            [("user", "i"), ("assistant", "a")],
        ),
        (
            {"instruction": "q", "output": "a", "system": "s", "history": [["q0", "a0"]]},
            "instruction/input/output",
            [("system", "s"), ("user", "q0"), ("assistant", "a0"), *TURNS],
        ),
        ({"prompt": "q", "completion": "a", "id": 1}, "prompt/completion", TURNS),
        ({"prompt": "q", "response": "a"}, "prompt/response", TURNS),
        ({"question": "q", "answer": "a"}, "question/answer", TURNS),
        (
            {"query": "q", "response": "a", "history": [["q0", "a0"]]},
            "query/response",
            [("user", "q0"), ("assistant", "a0"), *TURNS],
        ),
        ({"query": "q", "response": "a", "history": ""}, "query/response", TURNS),
        ({"prompt": "q", "messages": [{"role": "user", "content": "q"}]}, "messages: role/content", [("user", "q")]),
    ],
)
def test_layout_is_recognized_and_read(row: dict[str, object], name: str, pairs: list[tuple[str, str]]) -> None:
    layout = recognize([row])
    assert layout.name == name
    assert layout.pairs(row) == pairs


def test_layout_of_most_rows_wins() -> None:
    chat = {"messages": [{"role": "user", "content": "q"}]}
    assert recognize([{"prompt": "q", "completion": "a"}, chat, chat]).name == "messages: role/content"


def test_unknown_layout_lists_columns_and_mapping_without_contents() -> None:
    with pytest.raises(StageError) as caught:
        recognize([{"ask": "secret", "say": "secret"}])
    message = str(caught.value)
    assert "'ask', 'say'" in message
    assert "standardize.columns" in message
    assert "secret" not in message


def test_two_layouts_in_the_same_rows_are_not_guessed_between() -> None:
    with pytest.raises(StageError, match="prompt/completion, prompt/response"):
        recognize([{"prompt": "q", "completion": "a", "response": "b"}])


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"instruction": "q", "output": "a"}, "layout"),
        ({"messages": None}, "no_messages"),
        ({"messages": []}, "no_messages"),
        ({"messages": {"role": "user"}}, "layout"),
        ({"messages": "[not json"}, "layout"),
        ({"messages": ["text"]}, "layout"),
        ({"messages": [{"from": "human", "value": "q"}]}, "layout"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]}, "tool_calls"),
        ({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}, "weight_zero_answer"),
        ({"messages": [{"role": "assistant", "content": "a", "train": False}]}, "weight_zero_answer"),
    ],
)
def test_row_of_another_layout_is_rejected(row: dict[str, object], rule: str) -> None:
    layout = recognize([{"messages": [{"role": "user", "content": "q"}]}])
    with pytest.raises(Rejected) as caught:
        layout.pairs(row)
    assert caught.value.rule == rule


def test_null_extras_and_weights_of_questions_change_nothing() -> None:
    row = {
        "messages": [
            {"role": "user", "content": "q", "weight": 0, "tool_calls": None},
            {"role": "assistant", "content": "a", "weight": 1.0},
        ]
    }
    assert recognize([row]).pairs(row) == TURNS


@pytest.mark.parametrize("history", [[["q"]], "text", [["q", "a", "b"]], [{"q": "a"}], 3])
def test_history_that_is_no_list_of_pairs_is_rejected(history: object) -> None:
    layout = recognize([{"query": "q", "response": "a"}])
    with pytest.raises(Rejected, match="layout"):
        layout.pairs({"query": "q", "response": "a", "history": history})


def test_named_columns_are_read() -> None:
    row = {"ask": "q", "say": "a", "context": "s"}
    assert mapped_pair("ask", "say", "context").pairs(row) == [("system", "s"), *TURNS]
    assert mapped_pair("ask", "say", None).pairs(row) == TURNS
    chat = {"turns": [{"from": "human", "value": "q"}]}
    assert mapped_chat("turns", [chat]).pairs(chat) == [("human", "q")]
    with pytest.raises(StageError, match="'turns'"):
        mapped_chat("turns", [row])


def test_layout_names_differ() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
