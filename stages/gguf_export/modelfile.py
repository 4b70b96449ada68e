"""An Ollama Modelfile whose Go template writes what the Jinja template writes.

Nothing is known here about Llama 3 or ChatML: the form of a dialogue (what stands before and after each role's text) is read off
the Jinja template's own output, put together again for several conversations, and used only where every one comes out equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

Message = Mapping[str, str]


class Render(Protocol):
    """A chat template as a function."""

    def __call__(self, messages: Sequence[Message], *, answer: bool) -> str | None:
        """The text, with the answer opened if `answer`; None where the template refuses the conversation."""


USER, ANSWER, SYSTEM = "RETUNEUSERTEXT", "RETUNEANSWERTEXT", "RETUNESYSTEMTEXT"
CONVERSATIONS: tuple[tuple[Message, ...], ...] = (
    ({"role": "user", "content": "Where is it?"},),
    ({"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Where is it?"}),
    (
        {"role": "user", "content": "Where is it?"},
        {"role": "assistant", "content": "In the attic."},
        {"role": "user", "content": "And now?\nTell me."},
    ),
    (
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "4 is it's answer, isn't it?"},
        {"role": "user", "content": "Grüße, 世界! 🚀"},
    ),
)
"""What every template must render alike: with and without a system turn, one turn and several. No outer white space: some templates trim it."""


@dataclass(frozen=True)
class Form:
    """What a template writes around the texts of a dialogue."""

    begin: str
    """The BOS token's text, or nothing."""
    default_system: str
    """What stands in place of the system turn where there is none."""
    system: tuple[str, str] | None
    """Before and after the system text; None where the template takes none."""
    user: tuple[str, str]
    answer: tuple[str, str]
    prompt: str
    """What opens the answer that is to be written."""


def dialogue_form(render: Render, begin: str) -> Form | None:
    """The form of a template's dialogues, or None where it is more than text around texts.

    Args:
        render: the template.
        begin: the BOS token's text.
    """
    user = {"role": "user", "content": USER}
    opened, closed = render([user], answer=True), render([user], answer=False)
    longer = render([user, {"role": "assistant", "content": ANSWER}, user], answer=True)
    if (
        opened is None
        or closed is None
        or longer is None
        or not opened.startswith(closed)
        or not longer.startswith(closed)
    ):
        return None
    begin = begin if begin and closed.startswith(begin) else ""
    head, _, user_close = closed.removeprefix(begin).partition(USER)
    answer_open, _, rest = longer[len(closed) :].partition(ANSWER)
    between, _, _ = rest.partition(USER)
    if between.startswith(user_close) and head.endswith(between[len(user_close) :]):
        user_open = between[len(user_close) :]
    else:
        user_open = common_suffix(head, between)
    with_system = render([{"role": "system", "content": SYSTEM}, user], answer=True)
    system = None
    if with_system is not None:
        system_open, _, rest = with_system.removeprefix(begin).partition(SYSTEM)
        system_close = rest.partition(USER)[0].removesuffix(user_open)
        system = (system_open, system_close)
    form = Form(
        begin=begin,
        default_system=head.removesuffix(user_open),
        system=system,
        user=(user_open, user_close),
        answer=(answer_open, between.removesuffix(user_open)),
        prompt=opened[len(closed) :],
    )
    for messages in CONVERSATIONS:
        for answer in (True, False):
            text = render(messages, answer=answer)
            if text is not None and text != compose(form, messages, answer=answer):
                return None
    return form


def compose(form: Form, messages: Sequence[Message], *, answer: bool) -> str | None:
    """A dialogue put together from a form; None where the form has no system turn and one is asked for."""
    around = {"user": form.user, "assistant": form.answer}
    system = next((message["content"] for message in messages if message["role"] == "system"), None)
    if system is None:
        head = form.default_system
    elif form.system is None:
        return None
    else:
        head = form.system[0] + system + form.system[1]
    turns = [
        around[message["role"]][0] + message["content"] + around[message["role"]][1]
        for message in messages
        if message["role"] in around
    ]
    return form.begin + head + "".join(turns) + (form.prompt if answer else "")


def go_template(form: Form) -> str | None:
    """The form in Go's template language, without the BOS token (Ollama adds it, as the file says); None where it cannot be quoted."""
    pieces = (form.default_system, *(form.system or ()), *form.user, *form.answer, form.prompt)
    if any('"""' in piece for piece in pieces):
        return None
    default, user_open, user_close, answer_open, answer_close, prompt = map(
        literal, (form.default_system, *form.user, *form.answer, form.prompt)
    )
    system = default
    if form.system is not None:
        before, after = map(literal, form.system)
        system = "{{ if .System }}" + before + "{{ .System }}" + after + "{{ else }}" + default + "{{ end }}"
    turns = (
        f'{{{{ range .Messages }}}}{{{{ if eq .Role "user" }}}}{user_open}{{{{ .Content }}}}{user_close}'
        f'{{{{ else if eq .Role "assistant" }}}}{answer_open}{{{{ .Content }}}}{answer_close}{{{{ end }}}}{{{{ end }}}}'
    )
    return system + turns + prompt


def literal(text: str) -> str:
    """Text as it stands in a Go template: what opens an action there is written as a string."""
    return text.replace("{{", '{{ "{{" }}')


def render_modelfile(
    form: Form | None,
    files: Sequence[str],
    stop: Sequence[str],
    parameters: Mapping[str, float],
) -> str:
    """The Modelfile's text.

    Args:
        form: of the dialogue, or None where it is not known.
        files: the GGUF files' names; the first is taken, the others stand in a comment.
        stop: the texts that end an answer.
        parameters: Ollama's further parameters.
    """
    template = go_template(form) if form is not None else None
    lines = ["# For Ollama: `ollama create NAME -f Modelfile`, in this folder.", f"FROM ./{files[0]}"]
    lines += [f"# FROM ./{file}" for file in files[1:]]
    if template is None:
        lines += [
            "# TEMPLATE: not known. The model's Jinja template (it is in the GGUF file) does more than write text around texts,",
            "# so there is no Go template here that is proven to write the same. llama.cpp's server takes the Jinja template as it is.",
        ]
    else:
        lines += [
            "# Writes what the model's Jinja template writes (compared over several conversations; outer white space of a text aside).",
            f'TEMPLATE """{template}"""',
        ]
    lines += [f"PARAMETER stop {quote(text)}" for text in stop]
    lines += [f"PARAMETER {name} {value}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def quote(text: str) -> str:
    """A parameter's value in quotes, as Ollama reads it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def common_suffix(one: str, other: str) -> str:
    """The longest text that both end with."""
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]
