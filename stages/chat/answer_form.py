"""What a template writes between its generation prompt and an answer: found by rendering placeholders, so that no family is known here."""

from stages.chat.rendering import Template
from stages.chat.turns import make_placeholders
from stages.contracts.tokens import AnswerForm

THOUGHTS = "\ue000thoughts\ue001"
CONTENT = "\ue0001\ue001"
"""The placeholder of a dialogue's second message."""


def find_answer_form(template: Template) -> AnswerForm:
    """The form of an answer to one question, as `template` (the one that is shipped) writes it; empty where it cannot be told."""
    question, answer = make_placeholders(("user", "assistant"))
    prompt = template.try_render([question], add_generation_prompt=True)
    bare = template.try_render([question, answer])
    thinking = template.try_render([question, {**answer, "reasoning": THOUGHTS}])
    gap = cut_out(bare, prompt, CONTENT)
    before = cut_out(thinking, prompt, CONTENT)
    opens, found, closes = (before or "").partition(THOUGHTS)
    if not found or not closes.strip():
        opens = closes = ""
    return AnswerForm(gap=(gap or "").strip(), opens=opens.strip(), closes=closes.strip())


def cut_out(text: str | None, prompt: str | None, until: str) -> str | None:
    """What stands between a prompt and a placeholder; None if the text does not begin with the prompt, or lacks the placeholder."""
    if text is None or not prompt or not text.startswith(prompt):
        return None
    found, placeholder, _ = text[len(prompt) :].partition(until)
    return found if placeholder else None
