"""What a chat template does to a dataset, in words that log, command line and page say alike: from the facts of data/tokens/summary.json; pure."""

from collections.abc import Mapping
from typing import Any

from stages.chat.row_rules import RULES, TOO_LONG

STYLES = {
    "field": "written, from a field beside the content",
    "parts": "written, as a part of the content",
    "inline": "written between <think> and </think> in the answer's text: the template itself knows none",
    "prompt": "written behind a generation prompt that opens them",
    "none": "not written: the template knows none",
}
PROMPTS = {
    "opens": "the generation prompt opens them",
    "closes": "the generation prompt says that there are none",
    "open": "the generation prompt leaves them to the model",
}
ENDS_TURN = "; what ends a turn ends them, too, so generation would stop before the answer: rows with thoughts are set aside by name"


def say_template(facts: Mapping[str, Any]) -> dict[str, str]:
    """{what it is about: what is said of it}, in the order in which people ask.

    `facts`: the content of summary.json; of a template that no row has gone through, without `splits` and `rejected`.
    """
    form, end = facts["chat_template"], facts["end_of_turn"]
    said = {
        "prompt": facts["prompt"]["reason"],
        "end of turn": say_end(end),
        "BOS": {
            "template": "once, written by the template",
            "added": "once: the template left it to the tokenizer, the one that is shipped writes it",
            "none": "none: neither the template nor the tokenizer writes one",
        }[facts["bos"]],
        "system": "written" if form["system"] else "not written: rows with a system turn are set aside by name",
        "tools": say_tools(definitions=form["tools"], calls=form["calls"], forbidden=form["calls_forbidden"]),
        "thoughts": f"{STYLES[form['reasoning']]}; {PROMPTS[form['thinks']]}{ENDS_TURN if form['stop_closes_thought'] else ''}",
        "loss": say_loss(facts["answer"]["gap"], facts["prompt"], masked=facts["reasoning"] == "mask"),
    }
    if left := facts.get("answers_not_trained"):
        said["context"] = "; ".join(
            f"{count:,} answers of kept rows are not trained: {RULES[rule]}" for rule, count in left.items()
        )
    if form["options_read"]:
        values = (
            f"{name}: {facts['options'][name]!r}" if name in facts["options"] else name for name in form["options_read"]
        )
        said["options"] = f"the template reads {', '.join(values)}"
    return said | ({"length": say_length(facts)} if "splits" in facts else {})


def say_end(end: Mapping[str, Any]) -> str:
    """Whether an answer's end is trained, and what stops a model."""
    how = "a control token" if end["special"] else "spelled out, as the vocabulary has no token for it"
    inner = (
        ""
        if not end["inner"]
        else f"; {end['inner']!r} behind an answer that another turn follows is context, since no program stops there"
    )
    return f"{end['text']!r} is trained and ends an answer: {how}{inner}"


def say_tools(*, definitions: bool, calls: bool, forbidden: bool) -> str:
    """Whether tools and calls are written; `forbidden`: the sandbox stops the template at a call."""
    if forbidden:
        return (
            "calls are not written: the template changes a list there, which the sandbox of transformers forbids, so apply_chat_template "
            "fails, too; rows with calls are set aside by name"
        )
    if definitions and calls:
        return "definitions and calls are written"
    if calls:
        return "calls are written, definitions are not: rows with tools are set aside by name"
    if definitions:
        return "definitions are written, calls are not: rows with calls are set aside by name"
    return "not written: rows with tools are set aside by name"


def say_loss(gap: str, prompt: Mapping[str, Any], *, masked: bool) -> str:
    """What beside answers bears loss: of headers only what the model itself has to write. `prompt`: as in summary.json."""
    said = "answers with their ends"
    if prompt["choice"] == "train_gap" and gap:
        said += f", and {gap!r} before {'those without thoughts' if masked else 'them'}, which the model writes"
    said += "; that is their header" if prompt["header"] else "; no header of a turn"
    return f"{said}; thoughts and the tags around them are context" if masked else said


def say_length(facts: Mapping[str, Any]) -> str:
    """How many rows are cut or too long."""
    cut, rows = sum(split["truncated"] for split in facts["splits"].values()), facts["rows_in"]
    long = facts["rejected"].get(TOO_LONG, 0)
    if not rows:
        return "no row"
    return (
        f"{cut:,} of {rows:,} rows are cut ({cut / rows:.1%}), {long:,} are set aside as too long ({long / rows:.1%})"
    )
