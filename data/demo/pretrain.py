"""Pre-trains the demo's base model from nothing: a small Llama that knows the little world and answers shortly.

Reads   FOLDER's tokenizer (make_tokenizer.py) and world.py
Writes  FOLDER/config.json, generation_config.json, model.safetensors (bfloat16); prints the measures
Command python data/demo/pretrain.py data/demo/base                       (one H100: five minutes)
        python data/demo/pretrain.py FOLDER --device cpu --steps 200 --rows 32 --examples 8000   (shows that it works)

Plain torch. The module names are those of transformers' LlamaForCausalLM, whose logits are compared at the end.
Every row is one document of at most LENGTH tokens from position 0, so no document sees another.
"""

import argparse
import json
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

sys.path.insert(0, str(Path(__file__).parent))
import make_tokenizer
import world

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LENGTH = 192
LEARN = 1 << 15  # a token's high bit: "can be known from what stands before it"
DIALOGUES = 0.7  # share of dialogues among the rows; the others are stories
WARM_UP = 0.02  # share of the run
COMPILED_AT = 20  # steps after which the clock starts: compilation is over
SMALL_WEIGHT = 0.03  # loss weight of the other tokens


class Shape(NamedTuple):
    """The model's sizes. Every row of a weight is a multiple of 256 long, which K-quants need."""

    vocabulary: int = 1024
    hidden: int = 256
    intermediate: int = 768
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    rope_theta: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head_dim(self) -> int:
        """Length of a head's query, key and value."""
        return self.hidden // self.heads


# --- the model -------------------------------------------------------------------------------------------------------


class Norm(nn.Module):
    """Root-mean-square norm over the hidden size."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape.hidden))
        self.epsilon = shape.epsilon

    def forward(self, x: Tensor) -> Tensor:
        """X (..., hidden) -> the same shape."""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.epsilon)


class Attention(nn.Module):
    """Causal attention with rotary positions and shared key/value heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.o_proj = nn.Linear(inner, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """X (rows, length, hidden) and angles (length, head_dim) -> the shape of x."""
        rows, length, _ = x.shape
        dim, groups = self.shape.head_dim, self.shape.heads // self.shape.kv_heads
        q, k, v = (
            projection(x).view(rows, length, -1, dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """X (..., hidden) -> the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention, then feed-forward, each normed before and added."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = FeedForward(shape)
        self.input_layernorm = Norm(shape)
        self.post_attention_layernorm = Norm(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """X (rows, length, hidden) and angles (length, head_dim) -> the shape of x."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """What transformers calls `model`: embedding, blocks and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape)


class Llama(nn.Module):
    """A Llama with tied embeddings. `forward`: ids (rows, length) -> logits (rows, length, vocabulary)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        for name, weight in self.named_parameters():
            if weight.ndim > 1:
                last_of_block = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 if "embed" in name else weight.shape[1] ** -0.5
                nn.init.normal_(weight, std=std / (math.sqrt(2 * shape.layers) if last_of_block else 1.0))
        angles = torch.outer(
            torch.arange(LENGTH).float(), shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        )
        self.register_buffer("cos", torch.cat((angles, angles), 1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), 1).sin(), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (rows, length) -> logits (rows, length, vocabulary)."""
        embedding = self.model.embed_tokens.weight
        x = F.embedding(ids, embedding)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        cos, sin = (table[: ids.shape[1]].to(x.dtype) for table in (self.cos, self.sin))
        for block in self.model.layers:
            x = block(x, cos, sin)
        return F.linear(self.model.norm(x), embedding)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, in the halves' order that transformers uses."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


# --- the text --------------------------------------------------------------------------------------------------------


class Encoder:
    """Sentences -> ids. Sentences split apart at spaces, so each is encoded once and kept."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.ids = lru_cache(maxsize=None)(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
        special = tokenizer.token_to_id
        self.begin, self.end_of_text = special(make_tokenizer.BEGIN), special(make_tokenizer.END_OF_TEXT)
        self.pad, self.end_of_turn = special(make_tokenizer.PAD), special(make_tokenizer.END_OF_TURN)
        self.header = {
            role: [special("<|start_header_id|>"), *self.ids(role), special("<|end_header_id|>"), *self.ids("\n\n")]
            for role in ("system", "user", "assistant")
        }

    def sentences(self, sentences: list[str] | tuple[str, ...], follows: bool = False) -> list[int]:
        """Ids of sentences joined by spaces; with a space before them if they follow others."""
        ids: list[int] = []
        for sentence in sentences:
            ids += self.ids(f" {sentence}" if ids or follows else sentence)
        return ids

    def conversation(self, turns: list[world.Turn]) -> list[int]:
        """A dialogue in Llama 3's form; the assistant's words and ends of turn are marked with LEARN."""
        row = [self.begin]
        for turn in turns:
            mark = LEARN if turn.role == "assistant" else 0
            row += self.header[turn.role]
            row += [token | mark for token in (*self.sentences(turn.sentences), self.end_of_turn)]
        return row

    def story(self, first: list[str], then: list[str]) -> list[int]:
        """Prose; what follows from the first part is marked with LEARN."""
        retold = [token | LEARN for token in self.sentences(then, follows=True)]
        return [self.begin, *self.sentences(first), *retold, self.end_of_text | LEARN]


def document(rng: Random, encoder: Encoder, most_people: int) -> list[int]:
    """One training row: seven dialogues to three stories."""
    group = world.people(rng, rng.randint(1, most_people))
    if rng.random() < DIALOGUES:
        return encoder.conversation(world.conversation(rng, group, rng.randint(4, 9), full=False))
    return encoder.story(*world.story(rng, group, 2))


def load_tokenizer(folder: Path) -> "Tokenizer":
    """The tokenizer that lies in `folder`."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def make_rows(folder: Path, most_people: int, seed_and_count: tuple[int, int]) -> np.ndarray:
    """`count` rows (count, LENGTH) uint16, padded; a document that is too long is cut at the end."""
    seed, count = seed_and_count
    rng, encoder = Random(seed), Encoder(load_tokenizer(folder))
    rows = np.full((count, LENGTH), encoder.pad, np.uint16)
    for row in rows:
        ids = document(rng, encoder, most_people)[:LENGTH]
        row[: len(ids)] = ids
    return rows


def make_all_rows(folder: Path, most_people: int, count: int, seed: int, workers: int) -> Tensor:
    """Rows from `workers` processes, in an order that does not depend on how many."""
    chunk = 10_000
    jobs = [(seed * 1_000_003 + n, min(chunk, count - n * chunk)) for n in range(math.ceil(count / chunk))]
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(partial(make_rows, folder, most_people), jobs))
    return torch.from_numpy(np.concatenate(parts).view(np.int16))


# --- training --------------------------------------------------------------------------------------------------------


def split_marks(rows: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Rows (n, LENGTH) int16 -> ids int64, loss weights float32; padding weighs nothing."""
    rows = rows.long() & 0xFFFF
    ids = rows & (LEARN - 1)
    weights = torch.where(rows >= LEARN, 1.0, SMALL_WEIGHT)
    return ids, torch.where(ids == pad, 0.0, weights)


def loss_of(model: Llama, ids: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the next-token losses; ids, weights (rows, length)."""
    logits = model(ids[:, :-1])
    losses = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    wanted = weights[:, 1:].flatten()
    return (losses * wanted).sum() / wanted.sum()


def rate_at(done: float, top: float) -> float:
    """The learning rate when the share `done` of the run is over: up in a line over 2 %, then a cosine to 1 % of the top."""
    if done < WARM_UP:
        return top * max(done, 0.0005) / WARM_UP
    return top * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP)))))


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, rows, columns) with their singular values moved near 1 (five Newton-Schulz steps)."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices  # a CPU is slow in bfloat16
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon:
    """Momentum whose update is made orthogonal (Jordan 2024), scaled to AdamW's usual size, for the blocks' matrices.

    With the same time it was ahead of AdamW alone (README.md). Matrices of one shape go together, to launch less.
    """

    def __init__(self, weights: list[Tensor], compiled: bool) -> None:
        shapes = sorted({tuple(weight.shape) for weight in weights})
        self.groups = [[weight for weight in weights if tuple(weight.shape) == shape] for shape in shapes]
        self.momenta = [torch.zeros(len(group), *group[0].shape, device=group[0].device) for group in self.groups]
        self.orthogonal = torch.compile(orthogonal, dynamic=False) if compiled else orthogonal

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move the weights along their gradients."""
        for group, momentum in zip(self.groups, self.momenta, strict=True):
            gradient = torch.stack([weight.grad for weight in group])
            momentum.lerp_(gradient, 0.05)
            update = self.orthogonal(gradient.lerp(momentum, 0.95))
            size = 0.2 * max(momentum.shape[1:]) ** 0.5
            torch._foreach_mul_(group, 1 - 0.1 * rate)
            torch._foreach_add_(group, list(update.unbind()), alpha=-rate * size)


def train(model: Llama, rows: Tensor, easy: int, encoder: Encoder, options: argparse.Namespace) -> None:
    """Muon and AdamW over `options.steps` batches, or the schedule squeezed into `options.seconds`; the first `easy` rows come first."""
    on_gpu = options.device == "cuda"
    inner = [weight for name, weight in model.named_parameters() if name.endswith("proj.weight")]
    others = [weight for name, weight in model.named_parameters() if not name.endswith("proj.weight")]
    muon = Muon(inner, compiled=on_gpu) if options.optimizer == "muon" else None
    optimizer = torch.optim.AdamW(
        [{"params": others, "weight_decay": 0.0}, {"params": [] if muon else inner, "weight_decay": 0.1}],
        lr=options.rate, betas=(0.9, 0.98), eps=1e-9, fused=True,
    )  # fmt: skip
    step_loss = torch.compile(loss_of, dynamic=False) if on_gpu else loss_of
    dice = torch.Generator().manual_seed(options.seed)
    order = torch.cat([torch.randperm(easy, generator=dice), easy + torch.randperm(len(rows) - easy, generator=dice)])
    dialogues = dialogues_to_measure(100, (2, 4), full=False)
    started, position = time.monotonic(), 0
    for step in range(options.steps):
        if step == COMPILED_AT:
            started = time.monotonic()
        spent = time.monotonic() - started if step > COMPILED_AT else 0.0
        done = max(step / options.steps, spent / options.seconds)
        if done >= 1:
            break
        if position + options.rows > len(order):
            order, position = easy + torch.randperm(len(rows) - easy, generator=dice), 0
        batch = rows[order[position : position + options.rows].to(rows.device)]
        position += options.rows
        ids, weights = split_marks(batch, encoder.pad)
        with torch.autocast(options.device, torch.bfloat16, enabled=on_gpu):
            loss = step_loss(model, ids, weights)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rate = rate_at(done, options.rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        if muon:
            muon.step(rate)
        model.zero_grad(set_to_none=True)
        if step % options.every == options.every - 1:
            right = exact_answers(model, dialogues, encoder, options.device)
            print(
                f"step {step + 1} loss {loss.item():.4f} exact {right:.3f} after {time.monotonic() - started:.0f} s",
                flush=True,
            )


# --- measuring -------------------------------------------------------------------------------------------------------

# The 16 values of NF4, as bitsandbytes has them.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def as_nf4(weight: Tensor) -> Tensor:
    """The weight after 4-bit NF4 quantization in blocks of 64, dequantized."""
    table = torch.tensor(NF4, device=weight.device)
    blocks = weight.float().reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    middles = (table[1:] + table[:-1]) / 2
    return (table[torch.bucketize(blocks / scale, middles)] * scale).reshape(weight.shape).to(weight.dtype)


@torch.no_grad()
def exact_answers(model: Llama, turns_of: list[list[world.Turn]], encoder: Encoder, device: str) -> float:
    """Share of assistant turns whose every token is the likeliest one after the true words before it.

    That is the exact match of greedy decoding with gold history.
    """
    right = total = 0
    for start in range(0, len(turns_of), 250):
        dialogues = [encoder.conversation(turns)[:LENGTH] for turns in turns_of[start : start + 250]]
        rows = np.full((len(dialogues), LENGTH), encoder.pad, np.uint16)
        for row, ids in zip(rows, dialogues, strict=True):
            row[: len(ids)] = ids
        ids, weights = split_marks(torch.from_numpy(rows.view(np.int16)).to(device), encoder.pad)
        hits = (model(ids[:, :-1]).argmax(-1) == ids[:, 1:]).cpu()
        asked = (weights[:, 1:] == 1.0).cpu()
        for hit, wanted, targets in zip(hits, asked, ids[:, 1:].cpu(), strict=True):
            whole = True
            for at in wanted.nonzero().flatten().tolist():
                whole = whole and bool(hit[at])
                if targets[at] == encoder.end_of_turn:
                    right, total, whole = right + whole, total + 1, True
    return right / max(1, total)


def dialogues_to_measure(
    count: int, sizes: tuple[int, int], *, full: bool, kinds: tuple[str, ...] = world.KNOWN_KINDS
) -> list[list[world.Turn]]:
    """Dialogues of another seed than the training's, about groups of `sizes` people."""
    rng = Random(9)
    return [
        world.conversation(rng, world.people(rng, rng.randint(*sizes)), rng.randint(4, 8), full=full, kinds=kinds)
        for _ in range(count)
    ]


def measure(model: Llama, encoder: Encoder, device: str, dialogues: int) -> dict[str, float]:
    """Exact match on unseen dialogues about 2 to 4 people: short answers by kind and in NF4, and full ones."""
    model.eval()

    def score(kinds: tuple[str, ...], *, full: bool = False) -> float:
        turns = dialogues_to_measure(dialogues, (2, 4), full=full, kinds=kinds)
        return round(exact_answers(model, turns, encoder, device), 4)

    measures = {"short": score(world.KNOWN_KINDS), "full": score(world.KNOWN_KINDS, full=True)}
    measures["short, all kinds"] = score(world.ALL_KINDS)
    kept = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for name, weight in model.named_parameters():
        if name.endswith("proj.weight"):
            weight.data = as_nf4(weight.data)
    measures["short, NF4"] = score(world.KNOWN_KINDS)
    for name, weight in model.named_parameters():
        weight.data = kept[name]
    return measures


# --- the files -------------------------------------------------------------------------------------------------------


def configs(shape: Shape, encoder: Encoder) -> dict[str, dict[str, object]]:
    """config.json and generation_config.json."""
    ends = [encoder.end_of_text, encoder.end_of_turn]
    tokens = {"bos_token_id": encoder.begin, "eos_token_id": ends, "pad_token_id": encoder.pad}
    return {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "bfloat16",
            "vocab_size": shape.vocabulary,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": shape.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rms_norm_eps": shape.epsilon,
            "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
            "rope_theta": shape.rope_theta,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "use_cache": True,
            **tokens,
        },
        "generation_config.json": {"do_sample": False, **tokens},
    }


def save(model: Llama, encoder: Encoder, folder: Path) -> None:
    """Write weights (bfloat16) and configs to `folder`."""
    from safetensors.torch import save_file

    weights = {
        name: weight.detach().to("cpu", torch.bfloat16).contiguous() for name, weight in model.named_parameters()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name, content in configs(model.shape, encoder).items():
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@torch.no_grad()
def difference_from_transformers(model: Llama, encoder: Encoder, folder: Path) -> float:
    """Largest difference between our logits and LlamaForCausalLM's on the saved weights, both in float32 on the CPU."""
    from safetensors.torch import load_file
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ours = Llama(model.shape).eval()
    ours.load_state_dict({name: weight.float() for name, weight in load_file(folder / "model.safetensors").items()})
    rng = Random(3)
    turns = world.conversation(rng, world.people(rng, 3), 5, full=False)
    ids = torch.tensor([[token & (LEARN - 1) for token in encoder.conversation(turns)[:LENGTH]]])
    return float((ours(ids) - theirs(ids).logits).abs().max())


def main() -> None:
    """Make the rows, train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the tokenizer lies and the model goes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=math.inf, help="end within this time, schedule and all")
    parser.add_argument("--rows", type=int, default=256, help="rows a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="top learning rate")
    parser.add_argument("--optimizer", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--examples", type=int, default=1_000_000, help="rows to make; read again when used up")
    parser.add_argument("--easy", type=float, default=0.1, help="share of them about one or two people, read first")
    parser.add_argument("--layers", type=int, default=Shape().layers)
    parser.add_argument("--heads", type=int, default=Shape().heads)
    parser.add_argument("--kv-heads", type=int, default=Shape().kv_heads)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=500, help="steps between printed losses")
    parser.add_argument("--workers", type=int, default=16)
    options = parser.parse_args()
    print(json.dumps({**vars(options), "folder": options.folder.name}, sort_keys=True), flush=True)

    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    encoder = Encoder(load_tokenizer(options.folder))
    easy = int(options.examples * options.easy)
    rows = torch.cat(
        [
            make_all_rows(options.folder, 2, easy, 2 * options.seed + 100, options.workers),
            make_all_rows(options.folder, 4, options.examples - easy, 2 * options.seed + 101, options.workers),
        ]
    )
    print(f"{len(rows)} rows", flush=True)
    shape = Shape(layers=options.layers, heads=options.heads, kv_heads=options.kv_heads)
    model = Llama(shape).to(options.device)
    train(model, rows.to(options.device), easy, encoder, options)
    save(model, encoder, options.folder)
    measures = measure(model, encoder, options.device, 2000 if options.device == "cuda" else 20)
    print(json.dumps(measures), flush=True)
    print(
        f"logits against transformers: {difference_from_transformers(model, encoder, options.folder):.2e}", flush=True
    )


if __name__ == "__main__":
    main()
