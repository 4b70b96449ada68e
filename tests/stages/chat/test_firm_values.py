"""What runners say by themselves does not change the prompt of a template that is shipped."""

import pytest

from stages.chat.firm_values import NOBODY, find_told, hold_values
from stages.chat.rendering import compile_template

DAY = "26 Jul 2024"
ASKS = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}a: "
NEVER_OPENS = ASKS + "{% endif %}"
OPENS_WHEN_TOLD = ASKS + "{% if enable_thinking %}<think>{% endif %}{% endif %}"
CLOSES_WHEN_TOLD = (
    ASKS + "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"
)
THREE_WAYS = ASKS + "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}{% endif %}"
USER = [{"role": "user", "content": "?"}]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (NEVER_OPENS, []),
        (OPENS_WHEN_TOLD, ["enable_thinking"]),
        (CLOSES_WHEN_TOLD, []),
        (THREE_WAYS, ["enable_thinking"]),
    ],
)
def test_only_what_would_change_the_prompt_is_held(source: str, told: list[str]) -> None:
    template = compile_template(source, {}, DAY)
    assert find_told(template, {"enable_thinking"}) == told
    shipped = compile_template(hold_values(source, template, {}), {}, DAY)
    plain = template.render(USER, add_generation_prompt=True)
    for options in ({}, {"enable_thinking": True}):
        assert shipped.render(USER, add_generation_prompt=True, options=options) == plain
    assert (NOBODY in hold_values(source, template, {})) is bool(told)
    # where it changes nothing by itself, people may go on to say the other thing
    closed = shipped.render(USER, add_generation_prompt=True, options={"enable_thinking": False})
    assert closed.endswith("<think></think>") is (source == CLOSES_WHEN_TOLD)


@pytest.mark.parametrize("value", [True, False])
def test_option_of_the_params_is_held_whatever_a_runner_says(value: bool) -> None:
    template = compile_template(THREE_WAYS, {}, DAY, {"enable_thinking": value})
    shipped = compile_template(hold_values(THREE_WAYS, template, {"enable_thinking": value}), {}, DAY)
    for said in (True, False):
        text = shipped.render(USER, add_generation_prompt=True, options={"enable_thinking": said})
        assert text == f"?a: {value}"
    assert hold_values(NEVER_OPENS, compile_template(NEVER_OPENS, {}, DAY), {"unread": 1}) == NEVER_OPENS
