"""A dialogue as the chat template takes it, with the renderings that show where an answer begins; pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.chat.prompts import continue_prompt, name_difference, name_dropped, write_dropped_thought
from stages.chat.reasoning import PROBE, ThoughtForm, hand_over
from stages.chat.rendering import Message
from stages.chat.turns import Span, Turns, cut_inner_end, make_placeholders


class Script(NamedTuple):
    """One dialogue and the template that renders it."""

    turns: Turns
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None
    options: Mapping[str, Any] | None

    def render(self, messages: Sequence[Message] | None = None) -> str | None:
        """The text of the messages, or of others in their place; None where the template refuses them."""
        messages = self.messages if messages is None else messages
        handed = hand_over(messages, self.turns.style)
        text = self.turns.template.try_render(handed, tools=self.tools, options=self.options)
        return text if text is None or messages[-1]["role"] != "assistant" else self.add_end(text)

    def add_end(self, text: str) -> str:
        """A text that ends with an answer, with that answer's end: some templates leave it to the next turn."""
        return text + self.turns.end_of_turn if self.turns.end_is_added else text

    def change_others(self) -> "Script":
        """The same with other words in place of what all others say."""
        placeholders = make_placeholders([message["role"] for message in self.messages])
        changed = [
            message if message["role"] == "assistant" else {**message, "content": placeholder["content"]}
            for message, placeholder in zip(self.messages, placeholders, strict=True)
        ]
        return self._replace(messages=changed)

    def render_prompt(self, place: int) -> str | None:
        """What inference goes on from: the turns before message `place`, and the answer opened."""
        handed = hand_over(self.messages[:place], self.turns.style)
        render = self.turns.template.try_render
        return render(handed, tools=self.tools, options=self.options, add_generation_prompt=True)

    def find_form(self, place: int, answer: str) -> ThoughtForm | None:
        """How the template would write a thought before the answer that is message `place`, the last of its dialogue.

        `answer`: what it writes of the answer itself, a call or a content, up to the end of the text.
        """
        if self.turns.style != "field":
            return None
        text = self.render([*self.messages[:place], {**self.messages[place], "reasoning": PROBE}]) or ""
        before, found, behind = text.partition(PROBE)
        return ThoughtForm(before, behind.removesuffix(answer)) if found and behind.endswith(answer) else None


class FoundAnswer(NamedTuple):
    """An answer as it was found in the template's own text, in characters."""

    place: int
    """Which message."""
    first: int
    """Where its thought (or, if none is written, its content) begins."""
    content: int
    """Where its content begins."""
    content_end: int
    end: int
    thinks: bool
    """Whether its thought is written."""


def open_answers(script: Script, text: str, answers: Sequence[FoundAnswer]) -> tuple[str, list[Span]]:
    """The text that is trained and the answers' spans in it: each from the end of its generation prompt on, or with the rule that forbids it.

    The last answer, if it is the last message, is written behind its prompt where the template's own text does not do that.
    """
    spans: list[Span] = []
    for answer in answers:
        message = script.messages[answer.place]
        last = answer.place == len(script.messages) - 1
        prompt = script.render_prompt(answer.place)
        end = answer.content_end + len(cut_inner_end(script.turns, text[answer.content_end : answer.end]))
        span = Span(answer.content, answer.content_end, end)
        dropped = "reasoning" in message and not answer.thinks
        before = text[: answer.first]
        opening = before if prompt is not None and before.startswith(prompt) and not dropped else None
        if opening is None and last and prompt is not None:
            opening = open_last(script, answer, prompt, text, dropped=dropped)
        if opening is None:
            rule = (
                name_dropped(prompt, last=last) if dropped else name_difference(prompt, last=last, thinks=answer.thinks)
            )
            spans.append(span._replace(rule=rule))
            continue
        moved = len(opening) - answer.first
        text = opening + text[answer.first :]
        # a thought that the template drops has been written behind the prompt
        masked = script.turns.reasoning == "mask" and (answer.thinks or dropped)
        start = answer.content + moved if masked else len(str(prompt))
        spans.append(Span(start, answer.content_end + moved, end + moved))
    return text, spans


def open_last(script: Script, answer: FoundAnswer, prompt: str, text: str, *, dropped: bool) -> str | None:
    """What is to stand before the last answer's content (or its thought, if the template writes that) so that it goes on from its prompt.

    It must be the same whatever the turns before it say: else something of them would be written once more, and trained.
    """
    opening = continue_last(script, answer, prompt, text, dropped=dropped)
    changed, tail = script.change_others(), text[answer.first :]
    other, asked = changed.render(), changed.render_prompt(answer.place)
    if opening is None or other is None or asked is None or not other.endswith(tail):
        return None
    moved = answer._replace(first=len(other) - len(tail))
    again = continue_last(changed, moved, asked, other, dropped=dropped)
    return opening if again and again[len(asked) :] == opening[len(prompt) :] else None


def continue_last(script: Script, answer: FoundAnswer, prompt: str, text: str, *, dropped: bool) -> str | None:
    """The prompt and what the model has to write before the answer; of these turns alone."""
    before = text[: answer.first]
    if not dropped:
        form = None if answer.thinks else script.find_form(answer.place, text[answer.first :])
        return continue_prompt(prompt, before, form, thinks=answer.thinks)
    form = script.turns.thought
    added = write_dropped_thought(prompt, before, form) if form else None
    return f"{added.before}{script.messages[answer.place]['reasoning']}{added.behind}" if added else None
