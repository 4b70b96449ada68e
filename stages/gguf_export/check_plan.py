"""What every exported file is held against: held-out rows, questions, the tokenizer, what ends an answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.contracts.tokens import SUMMARY, TOKENIZER
from stages.core.errors import StageError
from stages.core.files import read_json
from stages.gguf_export import tokenization_check as tokenization
from stages.gguf_export.heldout_examples import Ending, Example, HeldoutQuestion, find_ending, questions, read_examples
from stages.gguf_export.modelfile import Form, dialogue_form
from stages.llama_cpp.quantize import Overrides

CONTEXT_STEP = 256
"""llama.cpp's attention cache comes in pieces of this many tokens."""


@dataclass(frozen=True)
class CheckPlan:
    """What every file is held against."""

    tokenizer: Any
    split: str
    examples: list[Example]
    asked: list[HeldoutQuestion]
    ending: Ending
    form: Form | None

    @property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer."""
        own = frozenset({self.tokenizer.eos_token_id} - {None})
        return self.ending.controls | own

    @property
    def stop(self) -> list[str]:
        """Texts that end an answer."""
        runs = [[token] for token in sorted(self.ending.controls)] or [list(self.ending.text)]
        return [self.tokenizer.decode(run, skip_special_tokens=False) for run in runs]

    @property
    def context(self) -> int:
        """Tokens of the attention cache that every row and question fits into."""
        longest = max(
            *(len(example.ids) for example in self.examples),
            *(len(asked.prompt) + asked.limit for asked in self.asked),
            1,
        )
        return -(-longest // CONTEXT_STEP) * CONTEXT_STEP


def make_plan(tokens: Path, rows: int, answers: int) -> CheckPlan:
    """The rows, questions and tokenizer of data/tokens.

    Args:
        tokens: data/tokens.
        rows: held-out rows to take.
        answers: assistant's turns of them to ask for.

    Raises:
        StageError: they contradict one another.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokens / TOKENIZER, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        raise StageError(
            f"{tokens.name}/tokenizer has no chat template; the stage template writes it there (template.chat_template)"
        )
    split, examples = read_examples(tokens, rows)
    begins = tokenization.begins_with_bos(tokenizer)
    for example in examples:
        tokenization.refuse_two_begins(example.ids, tokenizer.bos_token_id, f"row {example.row_id} of {tokens.name}")
        if tokenizer.bos_token_id is not None and begins != (example.ids[0] == tokenizer.bos_token_id):
            raise StageError(
                f"row {example.row_id} {'lacks the' if begins else 'begins with a'} BOS that the chat template does {'' if begins else 'not '}write; run the stage template again"
            )
    form = dialogue_form(tokenization.make_renderer(tokenizer, None), tokenizer.bos_token or "")
    closing = tokenization.encode(tokenizer, form.answer[1]) if form else []
    end = read_json(tokens / SUMMARY)["end_of_turn"]
    stop = end["ids"][0] if end["special"] else None
    ending = find_ending(examples, frozenset(tokenizer.added_tokens_decoder), closing, stop)
    return CheckPlan(tokenizer, split, examples, questions(examples, ending, answers), ending, form)


def tokenizer_metadata(plan: CheckPlan) -> Overrides:
    """What the file must say so that a runner feeds it as training did, whatever the converter guessed from the tokenizer's files."""
    says: dict[str, str | int | bool] = {"tokenizer.ggml.add_bos_token": tokenization.begins_with_bos(plan.tokenizer)}
    # the file has room for one beside the EOS
    for token in sorted(plan.ending.controls - {plan.tokenizer.eos_token_id}):
        says["tokenizer.ggml.eot_token_id"] = token
    return says
