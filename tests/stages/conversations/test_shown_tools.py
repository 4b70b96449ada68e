"""An answer that calls a tool which the conversation never shows is context: nobody could have known of it."""

import json
from pathlib import Path

import pytest

from tests.stages.test_standardize import ANSWERED, message, row, run

CALL = {"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}
IN_TEXT = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
TOOLS = [{"name": "get_weather"}]


def train_flags(tmp_path: Path, *, user: str = "Weather in Oslo?", said: object = None, **beside: object) -> list[bool]:
    """Which messages are trained of a call and an answer behind it."""
    system = [message("system", beside.pop("system"))] if "system" in beside else []
    called = message("assistant", said) if said else message("assistant", "", tool_calls=[CALL])
    given = row(*system, message("user", user), called, message("tool", "rain"), ANSWERED, **beside)
    result = run(tmp_path, [given], heldout_fraction=0)
    (kept,) = result.kept
    flags = [bool(each["train"]) for each in kept["messages"] if each["role"] == "assistant"]
    assert result.summary["tools_not_shown"] == (not flags[0])
    return flags


@pytest.mark.parametrize(
    "said", [None, IN_TEXT, f"Let me look. {IN_TEXT}", IN_TEXT.replace("tool_call>", "functioncall>")]
)
def test_call_is_trained_where_its_tool_is_shown_and_not_where_it_is_not(tmp_path: Path, said: str | None) -> None:
    for number, shown in enumerate(
        [
            {"tools": TOOLS},
            {"functions": json.dumps(TOOLS)},
            {"metadata": {"tools": TOOLS}},
            {"system": f"You may call: {json.dumps(TOOLS)}"},
            {"system": "Tools: get_weather(city), get_time()"},
            {"chat_template_kwargs": {"xml_tools": [json.dumps(TOOLS[0])]}},
            {"user": f"{json.dumps(TOOLS)} Weather in Oslo?"},
            {"user": "Call get_weather(city) for Oslo."},
        ]
    ):
        assert train_flags(tmp_path / f"shown {number}", said=said, **shown) == [True, True], shown  # type: ignore[arg-type]
    for number, other in enumerate(
        [
            {},
            {"tools": [{"name": "get_weather_map"}]},
            {"system": "You are kind."},
            {"system": "Tools: get_weathers, my_get_weather"},
            {"user": "please get_weather of Oslo"},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ]
    ):
        assert train_flags(tmp_path / f"other {number}", said=said, **other) == [False, True], other  # type: ignore[arg-type]


def test_call_in_the_words_of_a_user_or_a_result_is_none(tmp_path: Path) -> None:
    given = row(message("user", IN_TEXT), ANSWERED, message("user", "q"), message("assistant", "<tool_call> is a tag"))
    result = run(tmp_path, [given], heldout_fraction=0)
    assert all(each["train"] for each in result.kept[0]["messages"])
    assert result.summary["tools_not_shown"] == 0


def test_log_says_how_many_rows_call_tools_that_are_not_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    train_flags(tmp_path)
    assert "; in 1 row an answer calls a tool that is shown nowhere in the row: not trained" in caplog.text
