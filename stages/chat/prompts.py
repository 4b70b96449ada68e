"""The generation prompt and the text that follows it in training: one text, or made one; pure.

The contract: for each trained answer, what the template writes with `add_generation_prompt` for the turns before it, and then the
labelled tokens, are the training text up to the answer's end. Where a template writes something else before an answer than it asks
a model to go on from, the last answer of a dialogue is written behind the prompt here, as the family's own runtimes would see it.
"""

import os.path

from stages.chat.reasoning import CLOSED, CLOSER, OPENER, ThoughtForm, close_thought
from stages.chat.row_rules import PROMPT_CLOSES_REASONING, PROMPT_DIFFERS, REASONING_DROPPED, REASONING_NOT_RENDERED


def continue_prompt(prompt: str, written: str, form: ThoughtForm | None = None, *, thinks: bool = False) -> str | None:
    """What stands before an answer (before its thought, where it `thinks`) so that it begins with the prompt; None: it cannot be told.

    Args:
        prompt: the whole text that inference goes on from.
        written: what the template writes in training before the answer or its thought.
        form: how it writes a thought before this answer, if it does.
        thinks: whether a thought stands before the answer.
    """
    if written.startswith(prompt):
        return written
    if thinks:
        return None if CLOSER.search(prompt) or OPENER.search(prompt) else add_prompt(prompt, written)
    if form and not CLOSER.search(prompt):
        # an empty thought, as the template writes thoughts
        before = continue_prompt(prompt, form.before, thinks=True)
        if before is not None:
            return before + form.behind
    closing = close_thought(prompt)
    return add_prompt(prompt, written, closing)


def add_prompt(prompt: str, written: str, closing: str = "") -> str:
    """The prompt, `closing`, and of what is written before the answer all that the prompt does not say already."""
    header = cut_at_tag(os.path.commonprefix([prompt, written]))  # noqa: RUF071 - characters are meant
    added, kept = prompt[len(header) :], written[len(header) :]
    said = max(length for length in range(len(kept) + 1) if added.endswith(kept[:length]))
    # what is written may close the thought itself
    return prompt + ("" if CLOSED.search(kept[said:]) else closing) + kept[said:]


def cut_at_tag(text: str) -> str:
    """A beginning that two texts share, without the first half of a tag in which they differ."""
    for opens, closes in ("<>", "[]"):
        begin = text.rfind(opens)
        if begin > text.rfind(closes):
            text = text[:begin]
    return text


def write_dropped_thought(prompt: str, written: str, form: ThoughtForm) -> ThoughtForm | None:
    """Text up to a thought, and between it and the answer, for a last answer whose thought the template leaves out; None: it cannot be told.

    `written`: what the template writes before the answer: nothing behind its prompt, or an empty thought.
    """
    if CLOSER.search(prompt):
        return None
    rest = written[len(prompt) :] if written.startswith(prompt) else add_prompt(prompt, written)[len(prompt) :]
    return (
        ThoughtForm(prompt + form.before, form.behind)
        if rest.strip() in ("", (form.before + form.behind).strip())
        else None
    )


def name_dropped(prompt: str | None, *, last: bool) -> str:
    """The rule for an answer whose thought the template leaves out."""
    if not last:
        return REASONING_DROPPED
    return PROMPT_CLOSES_REASONING if prompt is not None and CLOSER.search(prompt) else REASONING_NOT_RENDERED


def name_difference(prompt: str | None, *, last: bool, thinks: bool) -> str:
    """The rule for an answer that does not go on from its prompt."""
    closed = last and thinks and prompt is not None and CLOSER.search(prompt)
    return PROMPT_CLOSES_REASONING if closed else PROMPT_DIFFERS
