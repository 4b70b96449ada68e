"""What templates write between their generation prompt and an answer."""

import pytest

from stages.chat.answer_form import find_answer_form
from stages.chat.reasoning import find_style
from stages.chat.rendering import Template, compile_template
from stages.chat.template_choice import OURS
from stages.contracts.tokens import AnswerForm
from tests.stages.chat.test_turns import CLOSES_ALL

HEAD = "{% for m in messages %}{% if m.role == 'user' %}{{ '<u>' + m.content }}{% else %}"
PROMPT = "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
THINKS = "{{ '<a>' }}{% if m.reasoning %}{{ '<think>\n' + m.reasoning + '\n</think>\n\n' }}{% endif %}{{ m.content }}"
CHANNELS = "{% if m.reasoning %}{{ '<a>|analysis|' + m.reasoning + '|end|' }}{% endif %}{{ '<a>|final|' + m.content + '|return|' }}"


def form_of(template: Template) -> AnswerForm:
    return find_answer_form(template, find_style(template)[1])


@pytest.mark.parametrize(
    ("source", "form"),
    [
        # a template that knows no thoughts is given them in the answer's text
        (HEAD + "{{ '<a>' + m.content }}" + PROMPT, ("", "<think>", "</think>")),
        (HEAD + "{{ '<a><think>\n\n</think>\n\n' + m.content }}" + PROMPT, ("<think>\n\n</think>", "", "")),
        (HEAD + THINKS + PROMPT, ("", "<think>", "</think>")),
        (HEAD + CHANNELS + PROMPT, ("|final|", "|analysis|", "|end|<a>|final|")),
        (HEAD + THINKS + PROMPT.replace("'<a>'", "'<a><think>\n'"), ("</think>", "", "</think>")),
        # where the prompt is no beginning of the text, the answer is trained behind the prompt; one without a prompt leaves all to the model
        (HEAD + "{{ '<b>|x|' + m.content }}" + PROMPT, ("<b>|x|", "", "")),
        (HEAD + "{{ '<a>|x|' + m.content }}{% endif %}{% endfor %}", ("<a>|x|", "<a>|x|<think>", "</think>")),
        ("{{ raise_exception('no') }}", ("", "", "")),
    ],
)
def test_form_of_an_answer_is_what_the_template_writes(source: str, form: tuple[str, str, str]) -> None:
    gap, opens, closes = form
    found = form_of(compile_template(source, {}, "26 Jul 2024"))
    assert found == AnswerForm(gap=gap, opens=opens, closes=closes, ends="")


@pytest.mark.parametrize("name", ["llama-3.1", "plain"])
def test_our_templates_without_thoughts_have_nothing_there(name: str) -> None:
    template = compile_template(
        (OURS / f"{name}.jinja").read_text(encoding="utf-8"), {"bos_token": "<s>"}, "26 Jul 2024"
    )
    assert form_of(template)["gap"] == ""


def test_words_between_an_answer_and_the_token_that_stops_are_told() -> None:
    form = form_of(compile_template(CLOSES_ALL, {}, "26 Jul 2024"))
    assert form == AnswerForm(
        gap="<|close|>think<|sep|><|open|>response<|sep|>",
        opens="",
        closes="<|close|>think<|sep|><|open|>response<|sep|>",
        ends="<|close|>response<|sep|>",
    )
