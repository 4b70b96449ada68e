"""What the merged model itself says, by transformers: the measure that every GGUF file is held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.gguf_export.folder_tensors import Weight
from stages.gguf_export.heldout_examples import Example, HeldoutQuestion
from stages.llama_cpp.runtime import SMALL_MODEL

FLOAT32_BYTES = 4 << 30
"""A model that takes no more than this as float32 is run in float32, a larger one in its own dtype: half the memory, and logits a little coarser."""


@dataclass(frozen=True)
class MergedReference:
    """The merged model's logits and answers."""

    logits: list[Path]
    """For each example, a .npy file: float32, shape [labelled tokens, vocabulary]. Files, since a large vocabulary fills the memory."""
    answers: list[list[int]]
    """For each question, the most likely tokens up to and with the one that ends the answer, at most the question's limit."""
    dtype: str

    def logits_of(self, index: int) -> NDArray[np.float32]:
        """The logits for one example, memory-mapped."""
        loaded: NDArray[np.float32] = np.load(self.logits[index], mmap_mode="r")
        return loaded


def run_merged_model(
    merged: Path,
    weights: dict[str, Weight],
    examples: Sequence[Example],
    asked: Sequence[HeldoutQuestion],
    ends: frozenset[int],
    threads: int,
    folder: Path,
) -> MergedReference:
    """Run the merged model on the CPU.

    Args:
        merged: a transformers folder.
        weights: its tensors; their number of values decides between float32 and the folder's dtype.
        examples: rows to get logits for.
        asked: turns to answer greedily.
        ends: ids that end an answer.
        threads: of PyTorch; a small model gets one, since waking the others takes longer than its products.
        folder: where to put the logits.

    Raises:
        StageError: the folder lacks a tensor of its own architecture.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    values = sum(int(np.prod(weight.shape, dtype=np.int64)) for weight in weights.values())
    torch.set_num_threads(threads if values > SMALL_MODEL else 1)
    dtype = torch.float32 if 4 * values <= FLOAT32_BYTES else "auto"
    model, loaded = AutoModelForCausalLM.from_pretrained(
        merged, dtype=dtype, local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    if loaded["missing_keys"]:
        # transformers would go on with random numbers in their place
        missing = ", ".join(sorted(loaded["missing_keys"])[:5])
        raise StageError(f"the merged model lacks {missing}; merge again")
    model.eval()
    found = MergedReference(
        [folder / f"logits-{index}.npy" for index in range(len(examples))], [], str(model.dtype).removeprefix("torch.")
    )
    with torch.inference_mode():
        for example, path in zip(examples, found.logits, strict=True):
            wanted = torch.from_numpy(np.flatnonzero(example.prediction_mask()))
            np.save(path, model(input_ids=torch.tensor([example.ids]), logits_to_keep=wanted).logits[0].float().numpy())
        for question in asked:
            likely = found.logits_of(question.example).argmax(axis=1)
            true = examples[question.example].targets()
            # What the model finds most likely after the true history is its greedy answer, as far as the two agree.
            agreed = common_prefix(likely[question.offset :], true[question.offset :], question.limit)
            found.answers.append(
                agreed + answer_greedily(model, question.prompt + agreed, question.limit - len(agreed), ends)
            )
    return found


def common_prefix(one: NDArray[np.int64], other: NDArray[np.int64], limit: int) -> list[int]:
    """The first tokens of both, at most `limit`, as far as they are the same."""
    same = one[:limit] == other[:limit]
    count = len(same) if same.all() else int(same.argmin())
    return [int(token) for token in other[:count]]


def answer_greedily(model: Any, prompt: list[int], limit: int, ends: frozenset[int]) -> list[int]:  # noqa: ANN401 - a transformers model
    """The most likely tokens, up to and with the one that ends the answer, at most `limit`."""
    import torch

    answer: list[int] = []
    part, cache = prompt, None
    while len(answer) < limit:
        output = model(input_ids=torch.tensor([part]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        token = int(output.logits[0, -1].argmax())
        answer.append(token)
        if token in ends:
            break
        part = [token]
    return answer
