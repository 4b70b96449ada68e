"""What no data path can be faster than here: reading the file, and bare tokenization of its contents on all cores.

run     python -m tests.bench.floors ROWS.parquet TOKENIZER.json
prints  one line of JSON: {mb, read_s, reference_s, reference_mb_per_s, fast_s, fast_mb_per_s}; the seconds of tokenization are
        for all rows, by a sample: of the library that transformers pins, and of the encoder that the stage `template` opens
"""

import json
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Tokenizer

from stages.tokenization.loading.fast import open_encoder

SAMPLE_ROWS = 4_000
BATCH = 2_000
"""Texts encoded together."""


def main() -> None:
    """The command."""
    rows, tokenizer_file = map(Path, sys.argv[1:])
    started = time.perf_counter()
    conversations = pq.read_table(rows, columns=["conversations"])["conversations"]
    read = time.perf_counter() - started
    sample = conversations.slice(0, SAMPLE_ROWS).combine_chunks().flatten().field("value").to_pylist()
    size = sum(len(text.encode()) for text in sample) / 1e6
    whole = size * max(len(conversations) / SAMPLE_ROWS, 1)
    figures = {"mb": whole, "read_s": read}
    source = tokenizer_file.read_bytes()
    reference = Tokenizer.from_buffer(source)
    encoders = {
        "reference": lambda texts: reference.encode_batch_fast(texts, add_special_tokens=False),
        "fast": open_encoder(source, reference).encode,
    }
    for name, encode in encoders.items():
        started = time.perf_counter()
        for start in range(0, len(sample), BATCH):
            encode(sample[start : start + BATCH])
        seconds = time.perf_counter() - started
        figures |= {f"{name}_s": whole / size * seconds, f"{name}_mb_per_s": size / seconds}
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))  # noqa: T201


if __name__ == "__main__":
    main()
