"""The official chat templates of many families: what is trained is the assistant's, with and without tools."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from stages.chat.chat import Chat
from stages.chat.dialogues import number_calls
from stages.chat.encoding import EncodedRow
from stages.chat.reasoning import Reasoning, choose_kept, hand_over
from stages.chat.rendering import Dialogue, Message
from stages.contracts.tokens import answers
from stages.core.errors import StageError
from tests.oracle import llama3
from tests.stages.chat.test_encoding import byte_level, opened, rows_of, trained
from tests.stages.chat.test_spans_by_substitution import TALK, TOOLS, said

pytestmark = pytest.mark.slow

CONTROL = re.compile("<[|\uff5c][^|\uff5c<>\\s'\"]{1,64}[|\uff5c]>|</?[a-z_]+(?:_[a-z]+)+>|\\[/?[A-Z_]+\\]")
"""What looks like a control token in a template's source: the vocabularies here are made of these."""

PLAIN = [said("user", "where is it?"), said("assistant", "Up."), said("user", "and that?"), said("assistant", "Down.")]
SYSTEM = [said("system", "Be brief."), *PLAIN]

NO_THOUGHT = "<think>\n\n</think>\n\n"
"""What Qwen3 writes, and the model with it, before an answer without a thought."""

# family: what ends an answer, whether it takes a system turn, whether it takes tools
FAMILIES = {
    "meta-llama-Llama-3.1-8B-Instruct": ("<|eot_id|>", True, True),
    "meta-llama-Llama-3.2-3B-Instruct": ("<|eot_id|>", True, True),
    "meta-llama-Llama-3.3-70B-Instruct": ("<|eot_id|>", True, True),
    "Qwen-Qwen2.5-7B-Instruct": ("<|im_end|>", True, True),
    "Qwen-Qwen3-0.6B": ("<|im_end|>", True, True),
    "google-gemma-2-2b-it": ("<end_of_turn>", False, False),
    "mistralai-Mistral-Nemo-Instruct-2407": ("<eos>", False, True),
    "Mistral-Small-3.2-24B-Instruct-2506": ("<eos>", True, True),
    "microsoft-Phi-3.5-mini-instruct": ("<|end|>", True, False),
    "ibm-granite-granite-4.0": ("<|end_of_text|>", True, True),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("<\uff5cend\u2581of\u2581sentence\uff5c>", True, False),
}


def encoded(source: str, dialogue: Dialogue) -> list[str] | str:
    """The trained stretches of a dialogue, or the rule that refuses it."""
    chat = opened(source, byte_level(sorted({*CONTROL.findall(source), "<bos>", "<eos>"})))
    (row,) = rows_of(chat, [dialogue])
    return trained(chat, row) if isinstance(row, EncodedRow) else row


def source_of(folder: Path, family: str) -> str:
    return (folder / llama3.TEMPLATES / f"{family}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_official_template_of_a_family_trains_answers_with_their_ends(family: str, llama3_folder: Path) -> None:
    end, takes_system, _ = FAMILIES[family]
    source = source_of(llama3_folder, family)
    found = encoded(source, Dialogue(PLAIN))
    if "R1" in family:
        # it asks a model to go on from "<think>\n</think>", which it writes before no answer of the past
        assert [text.strip() for text in found] == ["Down." + end]
    else:
        last = NO_THOUGHT + "Down." if "Qwen3" in family else "Down."
        assert [text.strip() for text in found] == ["Up." + end, last + end]
    # Mistral Nemo writes a system message beside the last question only if that is the last message: in training never
    assert (encoded(source, Dialogue(SYSTEM)) == found) is takes_system


@pytest.mark.parametrize("family", FAMILIES)
def test_official_template_of_a_family_trains_calls_or_refuses_tools_by_name(family: str, llama3_folder: Path) -> None:
    end, _, takes_tools = FAMILIES[family]
    found = encoded(source_of(llama3_folder, family), Dialogue(number_calls(TALK), TOOLS))
    if not takes_tools:
        assert found == "tools_not_rendered"
        return
    call, answer = found
    assert answer.strip() == (NO_THOUGHT if "Qwen3" in family else "") + "In the attic." + end
    assert call.endswith(end)
    assert '"lamp"' in call


def test_no_official_template_of_any_family_makes_a_tools_result_or_a_question_trained(llama3_folder: Path) -> None:
    plain, tools = 0, 0
    templates = sorted((llama3_folder / llama3.TEMPLATES).glob("*.jinja"))
    for path in templates:
        source = path.read_text(encoding="utf-8")
        for dialogue in (Dialogue(PLAIN), Dialogue(number_calls([*PLAIN, *TALK]), TOOLS)):
            try:
                found = encoded(source, dialogue)
            except StageError:
                continue
            if isinstance(found, str):
                continue
            text = "".join(found)
            assert not any(foreign in text for foreign in ("place", "where", "and that")), path.stem
            plain += dialogue.tools is None
            tools += dialogue.tools is not None
    # 63 and 38 of 72 when this was written; the others are refused whole, by a rule or when they are opened
    assert (plain >= 60, tools >= 35) == (True, True), f"{plain} and {tools} of {len(templates)}"


THINKING: list[Message] = [
    {**message, "reasoning": f"It is {message['content']}"} if message["role"] == "assistant" else message
    for message in PLAIN
]
DIALOGUES = {"one": PLAIN[:2], "two": PLAIN, "one thinks": THINKING[:2], "two think": THINKING, "system": SYSTEM}


@pytest.mark.parametrize("reasoning", ["train", "strip", "last_turn"])
def test_every_trained_answer_of_every_template_goes_on_from_the_prompt_of_inference(
    llama3_folder: Path, reasoning: Reasoning
) -> None:
    """The contract, by rendering what inference would have for each answer: the ids before the labels are those, to the last."""
    checked = 0
    for path in sorted((llama3_folder / llama3.TEMPLATES).glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        try:
            chat = opened(source, byte_level(sorted({*CONTROL.findall(source), "<bos>", "<eos>"})), reasoning=reasoning)
        except StageError:
            continue
        for name, messages in DIALOGUES.items():
            (row,) = rows_of(chat, [Dialogue(messages)])
            if isinstance(row, str):
                continue
            ids = row.input_ids.tolist()
            kept = choose_kept(messages, reasoning)
            asked = [kept[:place] for place, message in enumerate(kept) if message["role"] == "assistant"]
            prompts = [prompt_ids(chat, before) for before in asked]
            spans = answers(ids, row.labels.tolist())
            assert all(ids[:begin] in prompts for begin, _ in spans), (path.stem, name)
            assert len(spans) + len(row.context) == len(asked), (path.stem, name)
            checked += len(spans)
    assert checked > 350


def prompt_ids(chat: Chat, messages: Sequence[Message]) -> list[int]:
    """What `apply_chat_template(messages, add_generation_prompt=True)` of the shipped template gives."""
    text = chat.turns.template.render(hand_over(messages, chat.turns.style), add_generation_prompt=True)
    return list(chat.tokenizer.encode(text, add_special_tokens=False).ids)
