"""What is trained on in `train_rows`: the configurations, conversations like FineTome's, and their micro-batches."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A configuration."""

    backend: str
    """hf, recipe (Unsloth as published) or ours."""
    layout: str = "padded"
    """padded (2 x 4 conversations), flattened (8 conversations, no padding) or packed."""
    tokens: int = 0
    """Of a packed micro-batch; of a flattened one at most (0: no limit, the step is one)."""
    parts: int = 1
    """Micro-batches of a packed step."""
    preset: str = ""
    """Of presets/: tokens, parts, kept, loss_rows and optimizer are what that says and automatic planning makes of it
    (`train_presets`)."""
    four: bool = True
    kept: int | None = None
    """Layers that keep their activations. None: all."""
    cap_gib: float | None = None
    """What torch's allocator may reserve."""
    loss_rows: int = 4096
    optimizer: str = "adamw_torch_fused"
    resident: bool = False
    length: int = 2048
    """Longest conversation."""
    full: bool = False
    """Every conversation of exactly that length, every token with a label."""
    shape: str = "3b"
    steps: int = 12


ROWS = {
    "hf": Row("hf", optimizer="adamw_8bit", steps=8),
    "recipe": Row("recipe", optimizer="adamw_8bit", steps=10),
    "same": Row("ours", "flattened", steps=24),
    "same-8bit": Row("ours", "flattened", optimizer="adamw_8bit", steps=24),
    "same-8gb": Row("ours", "flattened", tokens=4096, kept=0, cap_gib=7, loss_rows=1024, steps=24),
    "packed-6gb": Row("ours", "packed", preset="llama-3.2-3b-packed-6gb", cap_gib=5),
    "packed-6gb-3k": Row("ours", "packed", tokens=3072, kept=0, cap_gib=5, loss_rows=512, steps=20),
    "packed-8gb": Row("ours", "packed", preset="llama-3.2-3b-packed-8gb", cap_gib=7),
    "packed-8k": Row("ours", "packed", tokens=8192, steps=16),
    "packed": Row("ours", "packed", tokens=16384),
    "packed-24k": Row("ours", "packed", tokens=24576),
    "packed-kept0": Row("ours", "packed", tokens=16384, kept=0),
    "resident": Row("ours", "packed", tokens=16384, resident=True),
    "16bit": Row("ours", "packed", tokens=16384, four=False),
    "long": Row("ours", "packed", tokens=16384, length=8192),
    "8b-16bit": Row("ours", "packed", tokens=8192, four=False, length=4096, full=True, shape="8b"),
    "8b-nf4": Row("ours", "packed", tokens=8192, length=4096, full=True, shape="8b"),
}
Conversation = tuple[list[int], list[int]]
"""(input ids, labels)."""
WORDS = 512
"""Of the vocabulary that occur."""


def text_ids(vocabulary: int) -> int:
    """Ids below it are text: the special tokens of the shape begin there."""
    return min(128000, vocabulary)


def conversations(row: Row, count: int, vocabulary: int = 128000) -> list[Conversation]:
    """FineTome-like lengths: about 480 tokens in the mean with a long tail; the first quarter of each has no label.

    A few words of the vocabulary make all of them, by Zipf's law: which ones, and how often, an adapter on random weights learns within
    ten steps, so that the loss says whether a row trains. The first ones are the same for every `count`.
    """
    import numpy as np

    spread = np.random.default_rng(0).lognormal(5.9, 0.75, count) * (row.length / 2048)
    lengths = np.full(count, row.length) if row.full else np.clip(spread, 48, row.length).astype(int)
    rng = np.random.default_rng(1)
    words = rng.choice(np.arange(10, vocabulary), min(WORDS, vocabulary - 10), replace=False)
    chances = 1 / np.arange(1, len(words) + 1)
    ids = [rng.choice(words, length, p=chances / chances.sum()).tolist() for length in lengths]
    masked = [0 if row.full else len(line) // 4 for line in ids]
    return [(line, [-100] * cut + line[cut:]) for line, cut in zip(ids, masked, strict=True)]


def packed(rows: list[Conversation], size: int) -> Iterator[list[Conversation]]:
    """Micro-batches of whole conversations, at most `size` tokens each, the longest first into the fullest that takes it."""
    bins: list[list[Conversation]] = []
    room: list[int] = []
    for line in sorted(rows, key=lambda line: -len(line[0])):
        fitting = [number for number, free in enumerate(room) if free >= len(line[0])]
        if fitting:
            place = min(fitting, key=room.__getitem__)
        else:
            place = len(bins)
            bins.append([])
            room.append(size)
        bins[place].append(line)
        room[place] -= len(line[0])
    full = [found for free, found in zip(room, bins, strict=True) if free <= size // 20]
    # the first bins hold the longest: mixed, so that a few of them are like all
    yield from random.Random(0).sample(full, len(full))


def micro_batches(row: Row, steps: int, vocabulary: int = 128000) -> list[list[list[Conversation]]]:
    """The micro-batches of each step."""
    if row.layout == "flattened":
        rows = conversations(row, 8 * steps, vocabulary)
        return [parts(rows[start : start + 8], row.tokens) for start in range(0, len(rows), 8)]
    count = math.ceil(steps * row.parts * row.tokens / (row.length if row.full else 470 * row.length / 2048)) + 64
    found = iter(packed(conversations(row, count, vocabulary), row.tokens))
    return [list(itertools.islice(found, row.parts)) for _ in range(steps)]


def parts(rows: list[Conversation], most: int) -> list[list[Conversation]]:
    """The conversations of a step in micro-batches of at most `most` tokens (0: one), as alike as they come."""
    total = sum(len(ids) for ids, _ in rows)
    number = 1 if not most else math.ceil(total / most)
    while True:
        found: list[list[Conversation]] = [[] for _ in range(number)]
        sizes = [0] * number
        for line in sorted(rows, key=lambda line: -len(line[0])):
            place = sizes.index(min(sizes))
            found[place].append(line)
            sizes[place] += len(line[0])
        if not most or max(sizes) <= most:
            return [part for part in found if part]
        number += 1
