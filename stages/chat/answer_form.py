"""What a template writes between its generation prompt and an answer: found by rendering placeholders, so that no family is known here."""

from collections.abc import Mapping

from stages.chat.chat import Chat, is_control_token
from stages.chat.prompts import continue_prompt
from stages.chat.reasoning import ThoughtForm, find_style
from stages.chat.rendering import Template
from stages.chat.turns import Slot, any_of, ends_of_turn, make_placeholders
from stages.contracts.tokens import AnswerForm
from stages.core.errors import StageError


def find_answer_form(template: Template) -> AnswerForm:
    """The form of an answer to one question, as `template` (the one that is shipped) has it in training; empty where it cannot be told."""
    question, answer = make_placeholders(("user", "assistant"))
    prompt = template.try_render([question], add_generation_prompt=True) or ""
    before, found, _ = (template.try_render([question, answer]) or "").partition(Slot(1, "content").placeholder)
    _, thought = find_style(template)
    form = ThoughtForm(prompt + thought.before, thought.behind) if thought else None
    opening = continue_prompt(prompt, before, form) if found else None
    opens, closes = (thought.before, thought.behind) if thought else ("", "")
    return AnswerForm(gap=(opening or prompt)[len(prompt) :].strip(), opens=opens.strip(), closes=closes.strip())


def describe_end_of_turn(chat: Chat) -> dict[str, object]:
    """summary.json's `end_of_turn`: {text, ids, special, inner}. `inner`: the ids of what ends an answer that another turn follows."""
    last, inner = chat.turns.end_of_turn.strip(), chat.turns.inner_end_of_turn.strip()
    return {
        "text": last,
        "ids": chat.tokenizer.encode(last, add_special_tokens=False).ids,
        "special": is_control_token(chat.tokenizer, chat.controls, last),
        "inner": chat.tokenizer.encode(inner, add_special_tokens=False).ids,
    }


def find_inner_ends(template: Template, controls: Mapping[int, str]) -> frozenset[int]:
    """The control tokens that end an answer which another turn follows, and not the last one: gpt-oss ends its thoughts with the same.

    `controls`: the texts of the vocabulary's control tokens by id.
    """
    try:
        inner, last, _ = ends_of_turn(template, any_of(controls.values()))
    except StageError:  # another's template, which ends answers with nothing
        return frozenset()
    return frozenset(index for index, text in controls.items() if text == inner.strip() != last.strip())
