"""What is written into a template's source: options with their values, and which options it reads."""

from typing import Any

import pytest

from stages.chat.pinning import extend_prompt, find_options, pin_template, replace_prompt
from stages.chat.rendering import Message, compile_template

DAY = "26 Jul 2024"
KNOWN = {"messages", "add_generation_prompt"}
TALK: list[Message] = [{"role": "user", "content": "q"}]


def render(source: str, **options: Any) -> str:
    return compile_template(source, {}, DAY).render(TALK, options=options, add_generation_prompt=True)


@pytest.mark.parametrize(
    "value", [True, False, None, 3, 1.5, "low", 'a "quoted" {{ text }} %} é\n', ["a", {"b": [None, True]}], {"k": "v"}]
)
def test_option_that_is_pinned_has_its_value_unless_somebody_gives_another(value: object) -> None:
    source = "{{ effort is defined }} {{ effort | tojson }}"
    pinned = pin_template(source, DAY, set_tokens={}, write_bos=False, options={"effort": value})
    assert render(pinned) == render(source, effort=value)
    assert render(pinned, effort="other") == render(source, effort="other")


@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("{{ messages }}", []),
        ("{% if thinking is defined and not thinking %}x{% endif %}", ["thinking"]),
        ("{% if thinking is not defined %}{% set thinking = true %}{% endif %}{{ thinking }}", ["thinking"]),
        ("{% for m in messages %}{% if m %}{% set c = m %}{% endif %}{{ c }}{% endfor %}", []),
        (
            "{% macro show(text) %}{% if text is defined %}{{ text }}{% endif %}{% endmacro %}{{ show(effort) }}",
            ["effort"],
        ),
        ("{% set own = 1 %}{{ own }}", []),
    ],
)
def test_options_are_the_variables_that_somebody_else_may_give(source: str, options: list[str]) -> None:
    assert find_options(source, KNOWN) == options


@pytest.mark.parametrize("tail", ["", "\n", "  ", "\n  \n", "{# end #}\n", "{%- if false %}x{% endif %}\n"])
def test_prompt_is_longer_or_another_and_the_text_without_it_stays(tail: str) -> None:
    source = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}" + tail
    bare, prompt = compile_template(source, {}, DAY).render(TALK), render(source)
    for changed, expected in (
        (extend_prompt(source, "|x| "), prompt + "|x| "),
        (replace_prompt(source, "<b>\n"), bare + "<b>\n"),
    ):
        assert compile_template(changed, {}, DAY).render(TALK) == bare
        assert render(changed) == expected
