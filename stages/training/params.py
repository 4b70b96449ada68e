"""The params of a training. Of no use but to be read: nothing here computes, and nothing of torch is loaded."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.core.params import Params
from stages.models.base_model import Dtype
from stages.training.step_plan import Layout


class LoraParams(Params):
    """The shape of the adapter."""

    r: Annotated[int, Field(ge=1)]
    """Rank of the update of each projection. Effect: more can be learned, more memory; 8 to 64 by the size of the task."""
    alpha: Annotated[int, Field(ge=1)]
    """The update is scaled by alpha / r (alpha / sqrt(r) with `use_rslora`). Effect: as a learning rate of the adapter."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Share of an adapter's inputs set to zero while training, 0 to 1. Effect: against overfitting; 0 is Unsloth's fast path."""
    bias: Literal["none"]
    """Bias vectors to train. Llama's projections have none, so this is the only value that can be merged."""
    target_modules: Annotated[list[str], Field(min_length=1)]
    """Names of the projections that get an adapter."""
    use_rslora: bool
    """Scale by 1 / sqrt(r) instead of 1 / r. Effect: high ranks learn as fast as low ones."""
    use_dora: bool
    """Train the length of each output's weights apart from their direction (DoRA). Effect: low ranks learn more like full training;
    slower, and off Unsloth's fast path."""
    modules_to_save: list[str]
    """Modules that are trained whole beside the adapter, such as lm_head; []: none. Effect: as many parameters as they have, in 32 bit
    with their moments: for a large vocabulary gigabytes."""


class TrainParams(Params):
    """What training learns, and from what."""

    seed: Annotated[int, Field(ge=0)]
    """Seed of the adapter's first values, the order of the rows and the dropout."""
    load_in_4bit: bool
    """Whether the base is in NF4 while training (QLoRA), about 0.6 byte a weight. With double quantization. false: it is in `dtype`, 2 or 4
    bytes a weight."""
    dtype: Dtype
    """Type of the arithmetic. auto: bfloat16 where the processor computes in it, else float16 on a GPU and float32 on a CPU."""
    lora: LoraParams
    init_adapter: Literal["none", "custom"]
    """Where the adapter's first values come from. none: a fresh adapter. custom: training goes on from the adapter in data/custom_adapter
    (a PEFT folder, of the shape that `lora` says); its optimizer starts anew."""
    layout: Layout
    """How conversations lie in an optimizer step. padded: each a row of its own, filled up to the longest of its micro-batch.
    flattened: one after the other in one long row, none sees another: the same mathematics without the filling, several times
    faster. Both take `conversations_per_step`, so the tokens of a step vary with its conversations. packed: whole conversations
    fill packs of `pack_length` tokens, and `tokens_per_step` says how many tokens a step has: fastest, but other mathematics than
    the recipe's 8 conversations (8 packs of 2,048 tokens are about 30 of FineTome's), so fewer steps an epoch."""
    conversations_per_step: Annotated[int, Field(ge=1)] | None
    """Conversations in one optimizer step (padded, flattened); null in packed. Whatever `runtime.micro_batch` cuts them into; an epoch's
    last step has what remains. The loss is the mean over all labelled tokens of the step."""
    tokens_per_step: Annotated[int, Field(ge=1)] | None
    """Tokens in one optimizer step (packed); null in padded and flattened. A multiple of `pack_length`; the loss is the mean over all the
    labelled ones. Packs are 98 % full or more on chat data."""
    pack_length: Annotated[int, Field(ge=2)] | None
    """Tokens of a pack (packed); null in padded and flattened. At least the longest row, so `template.max_length` is a good value."""
    steps: Annotated[int, Field(ge=1)] | None
    """Optimizer steps to train; null: `epochs` says how long."""
    epochs: Annotated[float, Field(gt=0)] | None
    """Passes over the training rows; null: `steps` says how long."""
    learning_rate: Annotated[float, Field(gt=0)]
    """Highest learning rate. 1e-4 to 5e-4 is usual for LoRA."""
    warmup_steps: Annotated[int, Field(ge=0)]
    """Steps over which the learning rate rises from 0."""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"]
    """Learning rate after warm-up. It falls to 0 by the last step (linear, cosine) or not at all."""
    optimizer: Literal["adamw_8bit", "paged_adamw_8bit", "adamw_torch", "adamw_torch_fused"]
    """Kind of AdamW. adamw_8bit keeps its moments in 8 bit, the paged one moves them to the host's memory when the GPU's is full. On a CPU,
    which has no 8-bit kernels, all are the fused AdamW."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Share of each weight taken off in a step, times the learning rate."""
    max_grad_norm: Annotated[float, Field(gt=0)]
    """A longer gradient is cut to this length."""
    neftune_noise_alpha: Annotated[float, Field(gt=0)] | None
    """Size of the noise on the embeddings (NEFTune; 5 is usual); null: none. While training. Effect: against overfitting on small data."""
    logging_steps: Annotated[int, Field(ge=1)]
    """Optimizer steps from one line of the step log to the next."""
    eval_steps: Annotated[int, Field(ge=1)] | None
    """Optimizer steps from one measure of the held-out loss to the next; null: never."""
    eval_rows: Annotated[int, Field(ge=1)]
    """Held-out rows measured then, the first of them."""
    early_stopping: Annotated[int, Field(ge=1)] | None
    """Measures without a new lowest held-out loss that end training; null: none do. Then all steps are taken."""
    keep: Literal["last", "best"]
    """Of which step the adapter is kept. last: of the last; best: of the one with the lowest held-out loss. The ledger ends with that
    step."""

    @model_validator(mode="after")
    def check_together(self) -> Self:
        """What one key asks of others."""
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("one of steps and epochs must be a number, the other null")
        packed = self.layout == "packed"
        given = {name: getattr(self, name) is not None for name in ("tokens_per_step", "pack_length")}
        if any(there != packed for there in given.values()) or (self.conversations_per_step is None) != packed:
            raise ValueError(
                "layout packed takes tokens_per_step and pack_length, padded and flattened take conversations_per_step; "
                "the others must be null"
            )
        if self.tokens_per_step is not None and self.tokens_per_step % (self.pack_length or 1):
            raise ValueError("tokens_per_step must be a multiple of pack_length")
        if self.eval_steps is None and (self.early_stopping is not None or self.keep == "best"):
            raise ValueError("early_stopping and keep: best look at the held-out loss, so eval_steps must be a number")
        return self
