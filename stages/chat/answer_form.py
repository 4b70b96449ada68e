"""What a template writes between its generation prompt and an answer: found by rendering placeholders, so that no family is known here."""

from stages.chat.prompts import continue_prompt
from stages.chat.reasoning import ThoughtForm, find_style
from stages.chat.rendering import Template
from stages.chat.turns import Slot, make_placeholders
from stages.contracts.tokens import AnswerForm


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
