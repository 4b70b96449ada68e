"""Any dialogue of any Unicode, encoded: the ids spell the rendering, the labels the assistant's turns, and nothing else is trained.

The renderings here are written by hand, not by the template engine, so that both are held against a third.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.chat.chat import Chat, open_chat
from stages.chat.encoding import encode_dialogues
from stages.chat.rendering import Dialogue, compile_template
from stages.chat.template_choice import OURS
from stages.contracts.tokens import NOT_TRAINED
from stages.tokenization.loading.fast import open_encoder
from tests.project import ROOT

DAY = "26 Jul 2024"
FORGED = "control_token_in_content"
MELTED = "spans_unverified"
BASE = ROOT / "data/demo/base"


@dataclass(frozen=True)
class Family:
    """A template with its tokenizer, and what it must write."""

    chat: Chat
    turn: Callable[[str, str], tuple[str, str]]
    """(role, content) -> what stands before what is trained, and what is trained of an assistant's turn."""
    begins: str
    """What stands before the first turn."""
    bos: str | None


def demo_turn(role: str, content: str) -> tuple[str, str]:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n", f"{content.strip()}<|eot_id|>"


def chatml_turn(role: str, content: str) -> tuple[str, str]:
    return f"<|im_start|>{role}\n", f"{content}<|im_end|>"


@cache
def demo() -> Family:
    """The demo's tokenizer and its own template (Llama 3's form, contents trimmed)."""
    source = (BASE / "tokenizer.json").read_bytes()
    tokenizer = Tokenizer.from_buffer(source)
    template = compile_template(
        (BASE / "chat_template.jinja").read_text(encoding="utf-8"), {"bos_token": "<|begin_of_text|>"}, DAY
    )
    chat = open_chat(tokenizer, open_encoder(source, tokenizer), template)
    return Family(chat, demo_turn, "<|begin_of_text|>", "<|begin_of_text|>")


@cache
def chatml() -> Family:
    """A byte-level tokenizer trained on next to nothing, and ChatML (contents as they are)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(["user assistant system\n\n where is the lamp?"], trainer)
    template = compile_template((OURS / "chatml.jinja").read_text(encoding="utf-8"), {}, DAY)
    chat = open_chat(tokenizer, open_encoder(tokenizer.to_str().encode(), tokenizer), template)
    return Family(chat, chatml_turn, "", None)


FAMILIES = {"demo": demo, "chatml": chatml}

WHITE = ["\n", " ", "\n\n", "\t", "\r", "\u00a0", "\u2028", "\ufeff", "\x00"]
WORDS = ["user", "assistant", "{{ x }}", "e\u0301", "\U0001f469\u200d\U0001f469"]
TOKENS = ["<|", "|>", "<|eot_id|", "<|im_end|", "<|im_end|>", "<|eot_id|>", "<|begin_of_text|>"]
PIECES = st.sampled_from([*WHITE, *WORDS, *TOKENS])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
CONTENT = st.lists(PIECES | TEXT, min_size=1, max_size=6).map("".join).filter(lambda text: text.strip())


@st.composite
def talks(draw: st.DrawFn) -> list[tuple[str, str]]:
    """A dialogue that keeps the turns' order, of any contents."""
    turns = [("system", draw(CONTENT))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns += [("user", draw(CONTENT)), ("assistant", draw(CONTENT))]
    return turns


@pytest.mark.slow
@given(st.sampled_from(sorted(FAMILIES)), st.lists(talks(), min_size=1, max_size=3))
@example("demo", [[("user", "\u2028a"), ("assistant", "\x00")]])
@example("chatml", [[("user", "a"), ("assistant", "\n\nuser\n")]])
@settings(max_examples=300, deadline=None)
def test_ids_spell_the_rendering_and_labels_the_answers_of_any_dialogue(
    name: str, batch: list[list[tuple[str, str]]]
) -> None:
    family = FAMILIES[name]()
    dialogues = [Dialogue([{"role": role, "content": content} for role, content in turns]) for turns in batch]
    encoded = encode_dialogues(family.chat, dialogues, "all_assistant_turns")
    for number, turns in enumerate(batch):
        row = encoded.row(number)
        if any(forges(family, content) for _, content in turns):
            assert row == FORGED
            continue
        if name == "chatml" and any(role == "assistant" and content[0] == "\n" for role, content in turns):
            # the header's line end and the answer's may be one token, of which half would have to be trained
            assert row == MELTED or not isinstance(row, str)
            continue
        assert not isinstance(row, str)
        between = "\n" if name == "chatml" else ""
        parts = [family.turn(role, content) for role, content in turns]
        ids, labels = row.input_ids.tolist(), row.labels.tolist()
        assert decoded(family, ids) == family.begins + "".join(head + body + between for head, body in parts)
        answers = [body for (role, _), (_, body) in zip(turns, parts, strict=True) if role == "assistant"]
        assert decoded(family, [label for label in labels if label != NOT_TRAINED]) == "".join(answers)
        assert all(label in (NOT_TRAINED, token) for token, label in zip(ids, labels, strict=True))
        if family.bos:
            bos = family.chat.tokenizer.token_to_id(family.bos)
            assert (ids[0], ids.count(bos)) == (bos, 1)


@given(st.sampled_from(sorted(FAMILIES)), st.lists(talks(), min_size=2, max_size=4))
@settings(max_examples=50, deadline=None)
def test_a_dialogue_is_encoded_alone_as_in_a_batch(name: str, batch: list[list[tuple[str, str]]]) -> None:
    chat = FAMILIES[name]().chat
    dialogues = [Dialogue([{"role": role, "content": content} for role, content in turns]) for turns in batch]
    together = encode_dialogues(chat, dialogues, "last_assistant_turn")
    for number, dialogue in enumerate(dialogues):
        alone, beside = encode_dialogues(chat, [dialogue], "last_assistant_turn").row(0), together.row(number)
        assert isinstance(alone, str) == isinstance(beside, str)
        if isinstance(alone, str) or isinstance(beside, str):
            assert alone == beside
        else:
            assert [alone.input_ids.tolist(), alone.labels.tolist()] == [
                beside.input_ids.tolist(),
                beside.labels.tolist(),
            ]


def forges(family: Family, content: str) -> bool:
    """Whether a text holds a control token of the vocabulary, read off the tokenizer itself."""
    tokens = family.chat.tokenizer.get_added_tokens_decoder().values()
    return any(token.content in content for token in tokens)


def decoded(family: Family, ids: list[int]) -> str:
    """The text that ids spell."""
    text: str = family.chat.tokenizer.decode(ids, skip_special_tokens=False)
    return text
