"""The base as training loaded it, alone or with the adapter, that talks: PyTorch, with the tokenizer and template of data/tokens."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retune.chat.dialogue import common_length
from stages.chat.answer_form import find_answer_form
from stages.chat.chat import control_tokens
from stages.chat.reasoning import find_style
from stages.chat.rendering import compile_template
from stages.chat.turns import any_of
from stages.contracts import adapter as adapter_files
from stages.contracts import tokens as token_files
from stages.core.errors import StageError
from stages.core.files import read_json
from stages.core.params import Runtime, read_params, section_params
from stages.evaluate import EvaluateParams, load_tuned, read_stop_rule
from stages.models.base_model import base_digests, device, embedding_plan, load_base, prepare_process, read_config
from stages.tokenization.loading.fast import ReferenceEncoder
from stages.tokenization.loading.tokenizer_folder import load_tokenizer, read_tokenizer_folder
from stages.training.params import TrainParams


class TorchSpeaker:
    """A model in memory as a `Speaker`. Make it with `open_base`.

    Args:
        model: causal, of transformers or peft.
        tokens: data/tokens.
        ends: ids that end an answer.
        place: cuda or cpu.
        context: tokens of the longest dialogue.
    """

    def __init__(self, model: Any, tokens: Path, ends: frozenset[int], place: str, context: int) -> None:  # noqa: ANN401
        folder = read_tokenizer_folder(tokens / token_files.TOKENIZER)
        summary = read_json(tokens / token_files.SUMMARY)
        self.model, self.place, self.context = model, place, context
        self.tokenizer = load_tokenizer(folder.source)
        self.encoder = ReferenceEncoder(self.tokenizer)
        self.template = compile_template(folder.chat_template or "", folder.tokens, summary["date_string"])
        controls = control_tokens(self.tokenizer)
        self.special = any_of(token.content for token in controls.values())
        self.controls: Mapping[int, str] = {index: token.content for index, token in controls.items()}
        self.style, thought = find_style(self.template)
        self.form = find_answer_form(self.template, thought)
        self.begin: int | None = None
        self.stops: tuple[str, ...] = () if summary["end_of_turn"]["special"] else (summary["end_of_turn"]["text"],)
        self.end_ids = ends
        self.kept: list[int] = []
        self.cache: Any = None

    def encode(self, text: str, *, plain: bool) -> list[int]:
        """As Speaker.encode."""
        ids, _ = (self.encoder.encode_plain if plain else self.encoder.encode)([text])
        found: list[int] = ids.tolist()
        return found

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """As Speaker.logits."""
        import torch
        from transformers import DynamicCache

        shared = common_length(self.kept, ids[:-1])
        if not shared:
            self.cache = DynamicCache()
        elif shared < len(self.kept):
            self.cache.crop(shared)
        self.kept = []
        with torch.inference_mode():
            part = torch.tensor([list(ids[shared:])], device=self.place)
            found = self.model(input_ids=part, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.kept = list(ids)
        row: NDArray[np.float32] = found.logits[0, -1].float().cpu().numpy()
        return row

    def ends(self, token: int) -> bool:
        """As Speaker.ends."""
        return token in self.end_ids

    def reader(self) -> Callable[[int], str]:
        """As Speaker.reader."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=True)
        return lambda token: stream.step(self.tokenizer, token) or ""


def open_base(root: Path, *, with_adapter: bool, context: int, max_tokens: int) -> TorchSpeaker:
    """Load data/base as training loaded it, with data/adapter on it or without.

    Args:
        root: the project, which is the working directory.
        with_adapter: else the base alone, which needs no adapter: then params.yaml says how it is loaded.
        context: tokens of the longest dialogue, if the model can.
        max_tokens: of an answer.

    Raises:
        StageError: something is missing, or the adapter is another base's.
    """
    base, adapter, tokens = root / "data/base", root / "data/adapter", root / "data/tokens"
    needed = {base: "fetch_model", tokens: "template"} | ({adapter: "train"} if with_adapter else {})
    for path, stage in needed.items():
        if not path.is_dir():
            raise StageError(
                f"data/{path.name} is not there: `dvc repro {stage}` makes it, `retune restore {stage}` brings it back"
            )
    values = read_params(root / "params.yaml")
    runtime = section_params(Runtime, "runtime", values)
    record = adapter / adapter_files.TRAINING
    training: adapter_files.Training | None = read_json(record) if record.is_file() else None
    if with_adapter and (training is None or training["base"] != base_digests(base)):
        raise StageError(
            "data/adapter was trained on another base than data/base: `dvc repro train` trains on this one"
        )
    prepare_process(base, runtime)
    place = device(runtime)
    if with_adapter and training is not None:
        model: Any = load_tuned(base, adapter, training, place)
    else:
        params = section_params(TrainParams, "train", values)
        model = load_base(
            base,
            load_in_4bit=params.load_in_4bit,
            # training asks the processor what `auto` is; every device that runs NF4 can do bfloat16
            dtype="bfloat16" if params.dtype == "auto" else params.dtype,
            place=place,
            rows=embedding_plan(base, tokens)[0],
        )
    stop = read_stop_rule(
        tokens, base, EvaluateParams(rows=None, answer_rows=0, max_new_tokens=max_tokens, exact_match=False)
    )
    longest = read_config(base).get("max_position_embeddings")
    return TorchSpeaker(model, tokens, stop.ids, place, min(context, longest) if isinstance(longest, int) else context)
