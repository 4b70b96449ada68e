"""Any dialogue with thoughts, under templates of every way of writing them: each trained answer goes on from the prompt of inference.

The prompts here are encoded one by one by the tokenizers library, as a runtime does it.
"""

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.chat.chat import Chat
from stages.chat.reasoning import Reasoning, choose_kept, hand_over
from stages.chat.rendering import Dialogue, Message
from stages.contracts.tokens import answers
from tests.hostile.test_any_dialogue import CONTENT
from tests.stages.chat.test_encoding import CHATML, PLAIN, byte_level, opened, rows_of
from tests.stages.chat.test_reasoning import LAST_ONLY, OPENS, R1

TEMPLATES = {"inline": CHATML, "last only": LAST_ONLY, "opened": OPENS, "opened, dropped": R1, "plain": PLAIN}
MODES: Sequence[Reasoning] = ("train", "mask", "strip", "last_turn")


@cache
def open_template(name: str, mode: Reasoning, *, as_gpt2: bool) -> Chat:
    tokenizer = byte_level(["<|im_start|>", "<|im_end|>", "<eos>"], as_gpt2=as_gpt2)
    return opened(TEMPLATES[name], tokenizer, reasoning=mode)


@st.composite
def dialogues(draw: st.DrawFn) -> list[Message]:
    """Questions and answers of any contents, some answers behind a thought."""
    messages: list[Message] = []
    for _ in range(draw(st.integers(1, 3))):
        messages.append({"role": "user", "content": draw(CONTENT)})
        answer: Message = {"role": "assistant", "content": draw(CONTENT)}
        thought = draw(st.none() | CONTENT.map(str.strip))
        messages.append({**answer, "reasoning": thought} if thought else answer)
    return messages


@pytest.mark.slow
@given(st.sampled_from(sorted(TEMPLATES)), st.sampled_from(MODES), st.booleans(), dialogues())
@settings(max_examples=300, deadline=None)
def test_every_trained_answer_goes_on_from_the_ids_of_its_prompt(
    name: str, mode: Reasoning, as_gpt2: bool, messages: list[Message]
) -> None:
    chat = open_template(name, mode, as_gpt2=as_gpt2)
    (row,) = rows_of(chat, [Dialogue(messages)])
    if isinstance(row, str):
        return
    ids, kept = row.input_ids.tolist(), choose_kept(messages, mode)
    places = [place for place, message in enumerate(kept) if message["role"] == "assistant"]
    spans = answers(ids, row.labels.tolist())
    assert len(spans) + len(row.context) == len(places)
    for begin, end in spans:
        place = next(place for place in places if goes_on(chat, kept, place, ids[:begin], masked=mode == "mask"))
        text = chat.tokenizer.decode(ids[begin:end], skip_special_tokens=False)
        said = kept[place]["content"]
        assert said.strip() in text
        if mode != "mask":
            assert kept[place].get("reasoning", "") in text
        places = [other for other in places if other > place]


def goes_on(chat: Chat, messages: Sequence[Message], place: int, ids: list[int], *, masked: bool) -> bool:
    """Whether ids are the prompt of the answer that is message `place`; a masked thought stands behind it."""
    text = chat.turns.template.render(hand_over(messages[:place], chat.turns.style), add_generation_prompt=True)
    prompt = chat.tokenizer.encode(text, add_special_tokens=False).ids
    if masked and "reasoning" in messages[place]:
        whole: str = chat.tokenizer.decode(ids, skip_special_tokens=False)
        before, behind = chat.turns.thought or ("", "")
        return whole == f"{text}{before}{messages[place]['reasoning']}{behind}"
    return bool(ids == prompt)
