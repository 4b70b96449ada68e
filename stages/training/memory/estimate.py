"""What memory a training takes, from the base's shapes and the params, before anything is loaded. Pure, without torch.

Peak memory is what stands (weights, adapter, gradients, optimizer, buffers) and what a micro-batch of T tokens adds: activations
that the layers keep for the backward pass, and the larger of the loss's logits and one layer's work. Two ways to run a layer are known:
the fused forward's, whose saved tensors are counted one by one, and Unsloth's own, which is fitted to measures (coarser). The figures
that they are held to are in tests/stages/training/memory/test_estimate.py.
"""

from dataclasses import dataclass
from functools import cached_property

from stages.training.fused_coverage import GROUPS, pad_ranks
from stages.training.model_shape import ModelShape
from stages.training.params import LoraParams

GIB = 2**30
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight of a linear layer in 4 bit: half a byte, a scale of one byte for 64, for 256 of those one of four bytes."""
UNSLOTH_BUFFERS = 0.15 * GIB
"""What Unsloth's kernels hold beside the weights: dequantized ones."""
OVER_ALLOCATED = 0.5 * GIB
"""What torch's allocator reserves above the peak that is allocated: 0.40 to 0.51 GiB in all measures."""


@dataclass(frozen=True)
class MemorySetup:
    """What the params say about a training's memory."""

    shape: ModelShape
    lora: LoraParams
    load_in_4bit: bool
    eight_bit: bool
    """Whether the optimizer's moments are in 8 bit."""
    fused: bool
    """Whether the fused forward runs it (`stages.training.fused_coverage.why_not_fused`)."""
    item: int = 2
    """Bytes of an activation: 2, or 4 with train.dtype float32."""
    trained_rows: int = 0
    """Rows of the embedding (and of a head of its own) that are trained."""
    processes: int = 1
    shards: int = 1
    """Processes that the base's linear layers are spread over."""

    @cached_property
    def trained(self) -> int:
        """Parameters that are trained."""
        count = self.trained_rows * self.shape.hidden * (1 if self.shape.tied else 2)
        for name, (out, into) in self.shape.matrices.items():
            if name.removesuffix(".weight").rpartition(".")[2] in self.lora.target_modules:
                count += self.lora.r * (out + into) + (out if self.lora.use_dora else 0)
        for name in self.lora.modules_to_save:
            found = [out * into for key, (out, into) in self.shape.matrices.items() if key.endswith(f"{name}.weight")]
            count += sum(found) or self.shape.head
        return count

    def ranks(self, group: tuple[str, ...]) -> int:
        """Columns that the adapters of a group of the fused forward take."""
        return pad_ranks(self.lora.r * sum(name in self.lora.target_modules for name in group))

    @cached_property
    def standing(self) -> float:
        """Bytes of the weights and the adapter, all that is there after loading."""
        linear = self.shape.linear * (NF4_BYTES if self.load_in_4bit else self.item) / self.shards
        return linear + self.shape.other * self.item + self.trained * 4 + self.buffers

    @cached_property
    def buffers(self) -> float:
        """Bytes that the way of running the layers holds: the adapter's copies and dequantized weights."""
        if not self.fused:
            return UNSLOTH_BUFFERS if self.load_in_4bit else 0.0
        copies, shared = 0, 0.0
        for group in GROUPS:
            ranks, parts = self.ranks(group), [self.shape.first_layer[name] for name in group]
            out, into = sum(part[0] for part in parts), parts[0][1]
            copies += ranks * (out + into) * self.shape.layers
            # in 4 bit one buffer for all layers, in 16 bit each layer's own, which holds its weights; both where they are spread
            margin = ranks * (out + into + ranks)
            shared += margin + out * into if self.load_in_4bit or self.shards > 1 else 0
            shared += 0 if self.load_in_4bit else margin * self.shape.layers / self.shards
        return (copies + shared) * self.item

    @cached_property
    def optimizer(self) -> float:
        """Bytes of the gradients and the optimizer's moments; of the buckets too that several processes add up in."""
        return self.trained * (4 + (2 if self.eight_bit else 8) + (4 if self.processes > 1 else 0))

    def kept_bytes(self) -> float:
        """Bytes a token of a layer that keeps its activations."""
        shape = self.shape
        if not self.fused:
            return (
                self.item * (6 * shape.hidden + shape.qkv + shape.heads * shape.width + 2 * shape.mlp) + 4 * shape.heads
            )
        qkv, o, gate_up, down = (self.ranks(group) for group in GROUPS)
        values = (
            2 * shape.hidden + 2 * shape.hidden + qkv + gate_up + shape.qkv + shape.heads * shape.width + 2 * shape.mlp
        )
        return self.item * (values + o + 2 * down) + 4 * shape.heads

    def not_kept_bytes(self) -> float:
        """Bytes a token of a layer whose activations are made again in the backward pass."""
        if not self.fused:
            return 0.0  # Unsloth moves a layer's input to the host's memory
        ranks = self.ranks(GROUPS[1]) + self.ranks(GROUPS[3])
        return self.item * (2 * self.shape.hidden + self.shape.heads * self.shape.width + ranks) + 4 * self.shape.heads

    def working_bytes(self) -> float:
        """Bytes a token, once: what one layer's backward pass has at its worst moment."""
        shape = self.shape
        if not self.fused:
            return self.item * (4 * shape.mlp + 8 * shape.hidden + shape.qkv)
        return self.item * (2 * shape.mlp + 2 * shape.hidden + self.ranks(GROUPS[2]))


@dataclass(frozen=True)
class ExecutionPlan:
    """How a step is fitted into the memory; none of it changes what is learned."""

    micro_batch: int
    """Sequences in a forward pass."""
    kept_layers: int
    """Layers, from the last, that keep their activations; all of them: no gradient checkpointing."""
    loss_rows: int
    """Rows of logits that the fused forward holds at a time."""


def describe_plan(setup: MemorySetup, execution: ExecutionPlan) -> str:
    """A plan for a log."""
    layers = setup.shape.layers
    kept = (
        "activations kept"
        if execution.kept_layers >= layers
        else f"activations of {execution.kept_layers} of {layers} layers kept"
    )
    kept = "activations computed again" if execution.kept_layers == 0 else kept
    return f"micro-batch {execution.micro_batch}, {kept}" + (
        f", {execution.loss_rows} rows of logits at a time" if setup.fused else ""
    )


@dataclass(frozen=True)
class Memory:
    """An estimate, in bytes."""

    weights: float
    adapter: float
    optimizer: float
    """With the gradients."""
    activations: float
    working: float
    """The larger of one layer's work and the logits, or what measuring the held-out loss takes."""

    @property
    def allocated(self) -> float:
        """The peak."""
        return self.weights + self.adapter + self.optimizer + self.activations + self.working

    @property
    def reserved(self) -> float:
        """What the process takes from the GPU, its context apart."""
        return self.allocated + OVER_ALLOCATED


def estimate_memory(setup: MemorySetup, execution: ExecutionPlan, tokens: int, heldout_tokens: int = 0) -> Memory:
    """The estimate for a micro-batch.

    Args:
        setup: what is trained.
        execution: how.
        tokens: of the largest micro-batch, with filling.
        heldout_tokens: of the largest batch of held-out rows; 0: none is measured.
    """
    shape = setup.shape
    kept = min(execution.kept_layers, shape.layers)
    activations = tokens * (kept * setup.kept_bytes() + (shape.layers - kept) * setup.not_kept_bytes())
    working = tokens * setup.working_bytes() if setup.fused or kept == 0 else 0.0
    if setup.fused:
        rows = min(execution.loss_rows, tokens)
        working = max(working, rows * shape.rows * setup.item + tokens * 2 * shape.hidden * setup.item)
    # measured with no gradient, through Unsloth's own layers
    heldout = heldout_tokens * setup.item * (4 * shape.mlp + 8 * shape.hidden + shape.qkv)
    adapter = setup.trained * 4
    return Memory(
        weights=setup.standing - adapter,
        adapter=adapter,
        optimizer=setup.optimizer,
        activations=activations,
        working=max(working, heldout - activations),
    )
