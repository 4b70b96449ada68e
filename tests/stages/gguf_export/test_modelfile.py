import re
from collections.abc import Sequence

import jinja2
import pytest

from stages.gguf_export.modelfile import CONVERSATIONS, Message, Render, dialogue_form, go_template, render_modelfile
from tests.stages.gguf_export.support.models_in_small import LLAMA_3_TEMPLATE

BEGIN = "<bos>"
CHATML = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DATED_LLAMA = (
    "{{- bos_token }}{% set has = messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] if has else '' %}"
    "{% set rest = messages[1:] if has else messages %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' }}{{- system }}{{- '<|eot_id|>' }}"
    "{% for message in rest %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
INSTRUCT = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + '</s>' }}{% else %}{{ raise_exception('no system turn') }}{% endif %}{% endfor %}"
)
NUMBERED = "{% for message in messages %}{{ loop.index }}: {{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}{{ messages | length }}{% endif %}"


def renderer(template: str) -> Render:
    def refuse(reason: str) -> None:
        raise jinja2.TemplateError(reason)

    compiled = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template)  # noqa: S701 - no HTML

    def render(messages: Sequence[Message], *, answer: bool) -> str | None:
        try:
            return compiled.render(
                messages=messages, bos_token=BEGIN, add_generation_prompt=answer, raise_exception=refuse
            )
        except jinja2.TemplateError:
            return None

    return render


def go(template: str, messages: Sequence[Message]) -> str:
    """The few actions of Go's template language that a Modelfile of ours holds, carried out."""
    system = next((message["content"] for message in messages if message["role"] == "system"), "")
    tokens = re.split(r"(\{\{.*?\}\}(?!\}))", template)

    def block(position: int, scope: dict[str, str], *, active: bool) -> tuple[str, int]:
        text = ""
        while position < len(tokens):
            token = tokens[position]
            action = token[2:-2].strip() if token.startswith("{{") else None
            if action is None:
                text += token if active else ""
            elif action == "end" or action.startswith("else"):
                return text, position
            elif action.startswith("range"):
                start = position + 1
                for message in messages:
                    more, position = block(
                        start, {"Role": message["role"], "Content": message["content"]}, active=active
                    )
                    text += more
            elif action.startswith("if"):
                taken = False
                while action != "end":
                    condition = action.removeprefix("else").strip().removeprefix("if").strip()
                    holds = not condition or (
                        bool(system) if condition == ".System" else scope.get("Role") == condition.split('"')[1]
                    )
                    more, position = block(position + 1, scope, active=active and holds and not taken)
                    text, taken = text + more, taken or holds
                    action = tokens[position][2:-2].strip()
            elif active:
                text += (
                    action[1:-1]
                    if action.startswith('"')
                    else {".System": system, ".Content": scope.get("Content", "")}[action]
                )
            position += 1
        return text, position

    return block(0, {}, active=True)[0]


@pytest.mark.parametrize(
    ("template", "begin"),
    [
        (LLAMA_3_TEMPLATE, "<bos>"),
        (CHATML, ""),
        (DATED_LLAMA, "<bos>"),
        (INSTRUCT, "<bos>"),
        (CHATML.replace("You", "{{You"), ""),
    ],
)
def test_go_template_writes_what_the_jinja_template_writes(template: str, begin: str) -> None:
    render = renderer(template)
    form = dialogue_form(render, "<bos>")
    assert form is not None
    assert form.begin == begin
    text = go_template(form)
    assert text is not None
    written = [(render(messages, answer=True), begin + go(text, messages)) for messages in CONVERSATIONS]
    assert [pair for pair in written if pair[0] is not None and pair[0] != pair[1]] == []
    assert sum(jinja is not None for jinja, _ in written) >= 2


@pytest.mark.parametrize(
    ("template", "close"), [(LLAMA_3_TEMPLATE, "<|eot_id|>"), (CHATML, "<|im_end|>\n"), (INSTRUCT, "</s>")]
)
def test_form_tells_what_closes_an_answer(template: str, close: str) -> None:
    form = dialogue_form(renderer(template), "<bos>")
    assert form is not None
    assert form.answer[1] == close


def test_template_that_is_more_than_text_around_texts_has_no_form_and_the_modelfile_says_so() -> None:
    assert dialogue_form(renderer(NUMBERED), "<bos>") is None
    text = render_modelfile(None, ["a-q8_0.gguf"], ["<end>"], {})
    assert "TEMPLATE: not known" in text
    assert not re.search(r"^TEMPLATE", text, re.MULTILINE)


def test_modelfile_names_its_file_and_where_to_stop() -> None:
    form = dialogue_form(renderer(CHATML), "")
    text = render_modelfile(form, ["a-q4_k_m.gguf", "a-q8_0.gguf"], ['<|im_end|>\n"'], {"temperature": 0.7, "top_k": 0})
    assert re.findall(r"^FROM (.*)$", text, re.MULTILINE) == ["./a-q4_k_m.gguf"]
    assert re.findall(r"^PARAMETER (.*)$", text, re.MULTILINE) == [
        r'stop "<|im_end|>\n\""',
        "temperature 0.7",
        "top_k 0",
    ]
    assert "ADAPTER" not in text


def test_text_that_a_modelfile_cannot_quote_gives_no_template() -> None:
    form = dialogue_form(renderer(CHATML.replace("You are kind.", '"""')), "")
    assert form is not None
    assert go_template(form) is None
