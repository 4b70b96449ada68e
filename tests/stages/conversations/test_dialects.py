from collections.abc import Mapping

import orjson
import pytest

from stages.conversations.canonical import canonical_form
from stages.conversations.dialect_detection import detect_dialect
from stages.conversations.dialects import Dialect
from stages.conversations.layouts import find_dialects
from stages.conversations.row_rules import Rejected
from stages.core.errors import StageError
from stages.dataset_files.column_names import ChatColumns, PromptColumns

TURNS = [("user", "q"), ("assistant", "a")]
EARLIER = [("user", "q0"), ("assistant", "a0")]
SYSTEM = ("system", "s")
CONTEXT = {"train": False}


def found(*rows: Mapping[str, object], columns: PromptColumns | ChatColumns | None = None) -> Dialect:
    dialect = detect_dialect([orjson.dumps(row) for row in rows], columns, "the source")
    assert dialect is not None
    return dialect


def messages(row: Mapping[str, object], dialect: Dialect) -> list[tuple[object, ...]]:
    return canonical_form(row, dialect)[0]


CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


@pytest.mark.parametrize(
    ("row", "name", "expected"),
    [
        ({"conversations": SHAREGPT}, "conversations: from/value", TURNS),
        ({"messages": CHAT}, "messages: role/content", TURNS),
        ({"conversations": CHAT}, "conversations: role/content", TURNS),
        ({"dialog": CHAT}, "dialog: role/content", TURNS),
        ({"chat": [{"role": "human", "text": "q"}, {"role": "ai", "text": "a"}]}, "chat: role/text", TURNS),
        ({"conversations": [{"role": "user", "value": "q"}, {"role": "bot", "value": "a"}]}, "conversations: role/value", TURNS),
        ({"conversations": SHAREGPT, "system": "s"}, "conversations: from/value", [SYSTEM, *TURNS]),
        ({"messages": orjson.dumps(CHAT).decode()}, "messages: role/content", TURNS),
        ({"messages": [{"role": "system", "content": "s"}, *CHAT], "system": "s"}, "messages: role/content", [SYSTEM, *TURNS]),
        ({"prompt": "q", "messages": CHAT}, "messages: role/content", TURNS),
        ({"conversation": [{"human": "q0", "assistant": "a0"}, {"human": "q", "assistant": "a"}]}, "conversation: {human, assistant}", [*EARLIER, *TURNS]),
        ({"conversation": [{"user": "q", "assistant": "a"}], "system": "s"}, "conversation: {user, assistant}", [SYSTEM, *TURNS]),
        ({"conversation": [{"system": "s", "input": "q", "output": "a"}]}, "conversation: {input, output}", [SYSTEM, *TURNS]),
        ({"dialogue": [{"prompt": "q", "response": "a"}]}, "dialogue: {prompt, response}", TURNS),
        ({"instruction": "q", "output": "a"}, "instruction/input/output", TURNS),
        ({"instruction": "q", "input": "", "output": "a", "system": ""}, "instruction/input/output", TURNS),
        ({"instruction": "q", "input": "i", "output": "a", "prompt": "p"}, "instruction/input/output", [("user", "q\ni"), ("assistant", "a")]),
        ({"instruction": "", "input": "i", "output": "a"}, "instruction/input/output", [("user", "i"), ("assistant", "a")]),
        ({"instruction": "q", "context": "i", "response": "a"}, "instruction/context/response", [("user", "q\ni"), ("assistant", "a")]),
        ({"instruction": "q", "input": "i", "response": "a"}, "instruction/input/response", [("user", "q\ni"), ("assistant", "a")]),
        ({"instruction": "q", "output": "a", "system": "s", "history": [["q0", "a0"]]}, "instruction/input/output", [SYSTEM, *EARLIER, *TURNS]),
        ({"prompt": "q", "completion": "a", "id": 1}, "prompt/completion", TURNS),
        ({"prompt": "q", "response": "a"}, "prompt/response", TURNS),
        ({"question": "q", "answer": "a"}, "question/answer", TURNS),
        ({"system_prompt": "s", "question": "q", "response": "a"}, "question/response", [SYSTEM, *TURNS]),
        ({"query": "q", "response": "a", "history": [["q0", "a0"]]}, "query/response", [*EARLIER, *TURNS]),
        ({"query": "q", "response": "a", "history": '[["q0", "a0"]]'}, "query/response", [*EARLIER, *TURNS]),
        ({"query": "q", "response": "a", "history": [{"role": "user", "content": "q0"}, {"role": "assistant", "content": "a0"}]}, "query/response", [*EARLIER, *TURNS]),
        ({"query": "q", "response": "a", "history": ""}, "query/response", TURNS),
        ({"input": "q", "output": "a"}, "input/output", TURNS),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, "prompt/completion", TURNS),
        ({"prompt": SHAREGPT[:1], "completion": "a"}, "prompt/completion", TURNS),
        (
            {"prompt": [{"role": "system", "content": "s"}, *CHAT, *CHAT[:1]], "completion": CHAT[1:]},
            "prompt/completion",
            [SYSTEM, ("user", "q"), ("assistant", "a", CONTEXT), *TURNS],
        ),
        ({"prompt": "[INST] q", "completion": "[1]"}, "prompt/completion", [("user", "[INST] q"), ("assistant", "[1]")]),
    ],
)  # fmt: skip
def test_layout_is_recognized_and_read(row: dict[str, object], name: str, expected: list[tuple[object, ...]]) -> None:
    dialect = found(row)
    assert dialect.name == name
    assert messages(row, dialect) == expected


def test_layout_of_most_rows_wins() -> None:
    assert (
        found({"prompt": "q", "completion": "a"}, {"messages": CHAT}, {"messages": CHAT}).name
        == "messages: role/content"
    )


def test_every_layout_has_a_name_of_its_own() -> None:
    rows = [
        {"messages": [{role: "user", content: "q"}]}
        for role in ("role", "from")
        for content in ("content", "value", "text")
    ]
    rows += [{"messages": [{question: "q", "assistant": "a"}]} for question in ("user", "human")]  # type: ignore[misc]
    names = [dialect.name for row in rows for dialect in find_dialects(row)]
    assert len(names) == len(set(names)) == len(rows)


def test_unknown_layout_lists_columns_and_mapping_without_contents() -> None:
    with pytest.raises(StageError) as caught:
        found({"ask": "secret", "say": "secret"})
    message = str(caught.value)
    for expected in ("the source", "'ask', 'say'", "--columns prompt=COLUMN,answer=COLUMN", "params.yaml"):
        assert expected in message
    assert "secret" not in message


def test_two_layouts_in_the_same_rows_are_not_guessed_between() -> None:
    with pytest.raises(StageError, match="prompt/completion, prompt/response"):
        found({"prompt": "q", "completion": "a", "response": "b"})
    with pytest.raises(StageError, match="instruction/input/output, instruction/input/response"):
        found({"instruction": "q", "input": "i", "output": "a", "response": "b"})
    with pytest.raises(StageError, match="conversations: from/value, messages: role/content"):
        found({"messages": CHAT, "conversations": SHAREGPT})


PICTURE = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}, CHAT[1]]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"prompt": "q", "chosen": "secret", "rejected": "b"}, "preference data.*messages=chosen"),
        ({"chosen": CHAT, "rejected": CHAT}, "preference data.*messages=chosen"),
        ({"messages": CHAT, "rejected_response": "b"}, "preference data"),
        ({"instruction": "q", "output": "a", "rejected": "b"}, "preference data"),
        ({"prompt": "q", "completion": "a", "label": True}, "preference data.*verdict"),
        ({"messages": CHAT, "kto_tag": False}, "preference data.*verdict"),
        ({"prompt": "q", "completions": ["a", "b"], "labels": [True, False]}, "preference data.*verdict"),
        ({"messages": CHAT, "images": ["secret.png"]}, "pictures, sounds or films"),
        ({"prompt": "q", "response": "a", "audio": {"path": "x"}}, "pictures, sounds or films"),
        ({"messages": PICTURE}, "pictures, sounds or films"),
        ({"prompt": PICTURE[:1], "completion": CHAT[1:]}, "pictures, sounds or films"),
        ({"image": "x", "text": "secret"}, "pictures, sounds or films"),
        ({"prompt": "secret"}, "prompts without answers"),
        ({"prompt": CHAT[:1]}, "prompts without answers"),
        ({"question": "secret", "level": 3}, "prompts without answers"),
        ({"messages": CHAT[:1]}, "prompts without answers"),
        ({"completion": "secret"}, "answers without prompts"),
        ({"text": "secret"}, "bare text without prompts"),
        ({"text": "secret", "meta": {}}, "bare text without prompts"),
    ],
)
def test_data_that_no_answers_can_be_learned_from_is_refused_with_what_to_do(row: dict[str, object], says: str) -> None:
    with pytest.raises(StageError, match=f"(?s)^the source is .*{says}") as caught:
        found(row, row)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT, "images": [], "image": None},
        {"prompt": "q", "completion": "a", "label": "physics"},
        {"messages": CHAT, "score": 5, "text": "all of it"},
        {"messages": [{"role": "system", "content": ""}, *CHAT]},
        {"messages": [{"role": "system", "content": None, "name": "x"}, *CHAT]},
    ],
)
def test_data_that_looks_like_it_is_read(row: dict[str, object]) -> None:
    assert messages(row, found(row)) == TURNS


def test_few_rows_of_another_kind_do_not_refuse_the_others() -> None:
    assert (
        found({"messages": PICTURE}, {"messages": CHAT}, {"messages": CHAT}, {"rejected": "a"}).name
        == "messages: role/content"
    )


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"instruction": "q", "output": "a"}, "layout"),
        ({"messages": None}, "no_messages"),
        ({"messages": []}, "no_messages"),
        ({"messages": {"role": "user"}}, "layout"),
        ({"messages": "[not json"}, "layout"),
        ({"messages": ["text"]}, "layout"),
        ({"messages": SHAREGPT}, "layout"),
        ({"messages": CHAT, "video": "x.mp4"}, "media"),
    ],
)
def test_row_of_another_layout_is_rejected(row: dict[str, object], rule: str) -> None:
    with pytest.raises(Rejected) as caught:
        messages(row, found({"messages": CHAT}))
    assert caught.value.rule == rule


@pytest.mark.parametrize("history", [[["q"]], "text", [["q", "a", "b"]], [{"q": "a"}], 3])
def test_history_that_is_no_list_of_pairs_is_rejected(history: object) -> None:
    dialect = found({"query": "q", "response": "a"})
    with pytest.raises(Rejected, match="layout"):
        messages({"query": "q", "response": "a", "history": history}, dialect)


def test_exchange_without_its_keys_is_rejected() -> None:
    dialect = found({"conversation": [{"human": "q", "assistant": "a"}]})
    with pytest.raises(Rejected, match="layout"):
        messages({"conversation": [{"human": "q", "assistant": "a"}, {"user": "q"}]}, dialect)


def test_named_columns_are_read() -> None:
    row = {"ask": "q", "say": "a", "context": "s"}
    with_system = PromptColumns(prompt="ask", answer="say", system="context")
    assert messages(row, found(row, columns=with_system)) == [SYSTEM, *TURNS]
    without = PromptColumns(prompt="ask", answer="say", system=None)
    assert messages(row | {"system": "x"}, found(row, columns=without)) == TURNS
    for turns in (CHAT, SHAREGPT, [{"human": "q", "assistant": "a"}]):
        row = {"turns": turns, "rejected": turns}
        assert messages(row, found(row, columns=ChatColumns(messages="turns"))) == TURNS
    with pytest.raises(StageError, match=r"no column 'turns'.*'ask'"):
        found({"ask": "q"}, columns=ChatColumns(messages="turns"))
    with pytest.raises(StageError, match="'ask' holds no list of messages"):
        found({"ask": "q"}, columns=ChatColumns(messages="ask"))
    with pytest.raises(StageError, match="no column 'say' and no 'rules'"):
        found({"ask": "q"}, columns=PromptColumns(prompt="ask", answer="say", system="rules"))


def test_preferred_answers_can_be_learned_by_naming_them() -> None:
    row = {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]}
    assert messages(row, found(row, columns=PromptColumns(prompt="prompt", answer="chosen", system=None))) == TURNS


def test_source_without_an_object_has_no_layout() -> None:
    assert detect_dialect([b"{", b"[1]"], None, "the source") is None


def test_results_of_parallel_calls_stand_in_the_order_of_the_calls_that_their_ids_name() -> None:
    calls = [
        {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b", "c")
    ]
    results = [{"role": "tool", "content": f"of {name}", "tool_call_id": name} for name in ("c", "x", "a", "b")]
    asked = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    row = {"messages": [*asked, *results, {"role": "assistant", "content": "done"}]}
    contents = [message[1] for message in messages(row, found(row))]
    assert contents == ["q", "", "of a", "of b", "of c", "of x", "done"]


def test_columns_in_capitals_are_known_where_they_fit_no_other_way() -> None:
    row = {"Prompt": "q", "Answer ": "a"}
    dialect = found(row)
    assert messages(row, dialect) == TURNS
    assert dialect.name == "prompt/answer (in any case)"
    with pytest.raises(StageError, match="not clear"):
        found({"Prompt": "q", "PROMPT": "q", "Answer": "a"})
    with pytest.raises(StageError, match="preference data"):
        found({"Prompt": "q", "Chosen": "a", "Rejected": "b"})


def test_source_of_unknown_columns_is_answered_with_its_number_and_the_first_line() -> None:
    with pytest.raises(StageError) as caught:
        detect_dialect([b'{"q": "x", "a": "y"}'], None, "data/custom/a.csv.gz", 3)
    assert "--set 'fetch_data.sources.3.columns={prompt: COLUMN, answer: COLUMN, system: null}'" in str(caught.value)
    assert "The first line of the file must name the columns" in str(caught.value)
    with pytest.raises(StageError) as caught:
        detect_dialect([b'{"q": "x", "a": "y"}'], None, "data/custom/a.jsonl")
    assert "first line" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "columns", "keys"),
    [
        ({"messages": CHAT, "id": 1}, {"messages", "system", "system_prompt"}, {"role", "content"}),
        ({"conversation": [{"human": "q", "assistant": "a"}]}, {"conversation", "system", "system_prompt"}, {"human", "assistant", "system"}),
        ({"question": "q", "answer": "a", "id": 1}, {"question", "answer", "system", "system_prompt", "history"}, {"role", "from", "content", "value", "text"}),
        ({"instruction": "q", "output": "a"}, {"instruction", "input", "output", "system", "system_prompt", "history"}, {"role", "from", "content", "value", "text"}),
        ({"Question": "q", "ANSWER ": "a", "Id": 1}, {"Question", "ANSWER "}, {"role", "from", "content", "value", "text"}),
    ],
)  # fmt: skip
def test_layout_says_which_columns_and_keys_it_reads(row: dict[str, object], columns: set[str], keys: set[str]) -> None:
    dialect = found(row)
    assert dialect.columns == columns
    assert dialect.keys == keys
