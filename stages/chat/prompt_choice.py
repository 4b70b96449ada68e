"""Where the model takes over: what stands between a template's generation prompt and an answer, and who writes it; pure.

`template.prompt` says it: the model learns to write the gap (`train_gap`), or the template that is shipped writes it in its
generation prompt (`extend_prompt`). Either way the prompt of training is the prompt of inference.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from stages.chat.pinning import extend_prompt, replace_prompt
from stages.chat.rendering import Template
from stages.chat.turns import PLACEHOLDER, Slot, make_placeholders
from stages.core.errors import StageError

WantedPrompt = Literal["auto", "train_gap", "extend_prompt"]
ChosenPrompt = Literal["agrees", "train_gap", "extend_prompt"]

BEGINNINGS = (("user",), ("system", "user"), ("user", "assistant", "user"), ("system", "user", "assistant", "user"))
"""Kinds of the turns before an answer that templates are looked at with; they may refuse some."""


class PromptChoice(NamedTuple):
    """Who writes what stands between the prompt and the answer, and why."""

    choice: ChosenPrompt
    reason: str
    gap: str
    """What the template writes in training behind its own generation prompt and before a plain answer; empty where the two do not go together."""
    source: str
    """The template that is shipped."""
    header: bool = False
    """Whether the gap holds the answer's header, since the template has no generation prompt: then the model learns to write it."""


class Opening(NamedTuple):
    """What stands before an answer."""

    prompt: str
    """At inference."""
    written: str
    """In training."""
    unasked: str
    """What the template writes for the turns before it without a generation prompt."""

    @property
    def gap(self) -> str | None:
        """What training has behind the prompt; None: it goes on differently."""
        return self.written[len(self.prompt) :] if self.written.startswith(self.prompt) else None

    @property
    def wanted(self) -> str:
        """What a prompt that goes together with training adds to the template's own, or writes in its place where the two go different ways.

        A blank at its end stays the model's: tokenizers put it to the first word.
        """
        return (self.written.removeprefix(self.unasked) if self.gap is None else self.gap).rstrip(" ")


def choose_prompt(source: str, compile_source: Callable[[str], Template], wanted: WantedPrompt) -> PromptChoice:
    """Look at the template, and choose. Raises StageError where extend_prompt is wanted and cannot be had."""
    openings = find_openings(compile_source(source))
    if not openings:
        return PromptChoice("agrees", "the template opens no plain answer; each row is looked at by itself", "", source)
    first = openings[0]
    if first.gap is not None and not first.gap.strip():
        return PromptChoice("agrees", "an answer follows the generation prompt in training, too", first.gap, source)
    no_prompt = first.gap is not None and first.prompt == first.unasked
    if wanted == "extend_prompt" or (wanted == "auto" and no_prompt):
        why = "the template has no generation prompt of its own" if no_prompt else "template.prompt asks for it"
        extended = extend_to(source, compile_source, first)
        reason = f"{why}, so {show(first.wanted)} is written into the one that is shipped"
        return PromptChoice("extend_prompt", reason, first.gap or "", extended)
    if no_prompt:
        reason = (
            f"the template has no generation prompt of its own, and template.prompt: train_gap has the model write {show(first.gap or '')}, "
            "the answer's header, itself"
        )
    elif first.gap is not None:
        reason = (
            f"behind its generation prompt the template writes {show(first.gap)} before an answer: the model learns to write it, as "
            "programs expect that use the family's own prompt"
        )
    else:
        reason = (
            f"the template asks a model to go on from {show_end(first.prompt)} and writes {show_end(first.written)} in training: the "
            "last answer of a row is trained behind the former, as programs expect that use the family's own prompt"
        )
    if wanted == "train_gap" and not no_prompt:
        reason += " (template.prompt: auto does the same with this template)"
    return PromptChoice("train_gap", reason, first.gap or "", source, no_prompt)


def find_openings(template: Template) -> list[Opening]:
    """What stands before an answer, behind each of BEGINNINGS that the template takes."""
    found = []
    for kinds in BEGINNINGS:
        asked = make_placeholders(kinds)
        prompt = template.try_render(asked, add_generation_prompt=True)
        unasked, whole = template.try_render(asked), template.try_render(make_placeholders((*kinds, "assistant")))
        written, answered, _ = (whole or "").partition(Slot(len(kinds), "content").placeholder)
        if prompt is not None and unasked is not None and answered:
            found.append(Opening(prompt, written, unasked))
    return found


def extend_to(source: str, compile_source: Callable[[str], Template], opening: Opening) -> str:
    """The template with a generation prompt that is what training has before an answer. Raises StageError if no constant text is that."""
    extended = (replace_prompt if opening.gap is None else extend_prompt)(source, opening.wanted)
    if any(found.prompt != found.written.rstrip(" ") for found in find_openings(compile_source(extended))):
        raise StageError(
            "template.prompt: extend_prompt cannot be had with this chat template: what it writes before an answer depends on the "
            "dialogue. Use train_gap"
        )
    return extended


def show(text: str) -> str:
    """A text in one line, short."""
    return repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...")


def show_end(text: str) -> str:
    """What stands behind the last content of a text with placeholders, in one line."""
    return show(PLACEHOLDER.split(text)[-1])


LONGEST = 80
"""Characters that are shown of a prompt."""
