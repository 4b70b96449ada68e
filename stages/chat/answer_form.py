"""What a template writes between its generation prompt and an answer: found by rendering placeholders, so that no family is known here."""

import os.path

from stages.chat.chat import Chat, is_control_token
from stages.chat.prompts import continue_prompt
from stages.chat.reasoning import ThoughtForm
from stages.chat.rendering import Template
from stages.chat.turns import CONTROL_SHAPE, TWO_QUESTIONS, Slot, find_late_end, make_placeholders
from stages.contracts.tokens import AnswerForm


def find_answer_form(template: Template, thought: ThoughtForm | None) -> AnswerForm:
    """The form of an answer to one question, as `template` (the one that is shipped) has it in training; empty where it cannot be told.

    `thought`: what it writes around one, as `find_style` has found it.
    """
    question, answer = make_placeholders(("user", "assistant"))
    prompt = template.try_render([question], add_generation_prompt=True) or ""
    before, found, _ = (template.try_render([question, answer]) or "").partition(Slot(1, "content").placeholder)
    form = ThoughtForm(prompt + thought.before, thought.behind) if thought else None
    opening = continue_prompt(prompt, before, form) if found else None
    opens, closes = (thought.before, thought.behind) if thought else ("", "")
    gap = (opening or prompt)[len(prompt) :].strip()
    return AnswerForm(
        gap=gap, opens=opens.strip(), closes=closes.strip(), ends=find_words_before_stop(template, thought)
    )


def find_words_before_stop(template: Template, thought: ThoughtForm | None) -> str:
    """What the template writes between an answer and the token that generation stops at."""
    text = template.try_render(make_placeholders(TWO_QUESTIONS)) or ""
    if not thought or not text:
        return ""
    behind = [text.partition(Slot(place, "content").placeholder)[2] for place in (1, 3)]
    end = find_late_end(os.path.commonprefix(behind), CONTROL_SHAPE, thought.before + thought.behind)  # noqa: RUF071 - characters are meant
    return end[: max((token.start() for token in CONTROL_SHAPE.finditer(end)), default=0)].strip()


def describe_end_of_turn(chat: Chat) -> dict[str, object]:
    """summary.json's `end_of_turn`: {text, ids, special, inner} of what generation stops at.

    `inner`: the text that ends an answer which another turn follows, where that is another one, which no label stands on; else empty.
    """
    last, inner = chat.turns.stop, chat.turns.inner_end_of_turn.strip()
    return {
        "text": last,
        "ids": chat.tokenizer.encode(last, add_special_tokens=False).ids,
        "special": is_control_token(chat.tokenizer, chat.controls, last),
        "inner": "" if inner == chat.turns.end_of_turn.strip() else inner,
    }
