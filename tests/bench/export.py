"""Our export against the bare tools, on one model with random weights, in one run: wall and processor time, and each step's peak memory.

ours    `merge` (fold, write, sha256), the conversion and `quantize` as the stages `merge` and `gguf` do them, without what they check
bare    PEFT's merge_and_unload and save_pretrained; llama.cpp's convert_hf_to_gguf.py and llama-quantize on the folder that ours
        merged; nothing is checked
checked the two stages as they are, with every check: how much more that is. The forward passes are four rows of some 500 tokens
        on the base, base + adapter and the merged model (layer by layer), and on the merged model and each file (four answers too)

Each step is a process of its own, from before its start to after its end, imports and all. Its inputs are dropped from the page
cache before, on both sides. The tensors of ours and of llama-quantize are compared byte for byte at the end. The last line of the
output is one JSON object: ours_s, bare_s, ratio (of the sums), the same for conversion and quantizing alone, and all steps.

run     python -m tests.bench.export FOLDER                a Llama-3.2-1B shape: minutes on two cores, 14 GB of disk
        python -m tests.bench.export FOLDER --shape 3b     28 layers of 3072, vocabulary 128,256: 3.2 billion weights, 36 GB of disk
        --repeat 3          medians     --no-checks         without the third part
        --llama-quantize PATH           another than the one that the stage `gguf` would find or build
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from stages.llama_cpp.programs import find_or_build
from tests.bench.measure import Measured, measured
from tests.oracle import llama3
from tests.project import ROOT

SHAPES: dict[str, dict[str, int]] = {
    "small": {"num_hidden_layers": 4, "hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8},
    "1b": {"num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32},
    "3b": {"num_hidden_layers": 28, "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24},
}
QUANTIZATIONS = ("q8_0", "q4_k_m")
SHARD = 5_000_000_000
"""Bytes of a shard, as the hub's models have them."""
ROWS, TURNS, TURN_TOKENS = 6, 4, 120
"""Held-out rows, their turns, and tokens of a question and of an answer."""
Step = tuple[str, list[str], list[Path]]
"""Its name, its command, and what it reads."""


def main() -> None:
    """Make the model, measure, compare, remove."""
    given = read_flags()
    root: Path = given.folder / "export-bench"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        size = make(root, SHAPES[given.shape])
        say(f"{given.shape}: {size / 1e9:.2f} GB of weights, {len(os.sched_getaffinity(0))} cores")
        result = measure(root, given.quantizer, given.repeat, checks=not given.no_checks)
        print(json.dumps({"shape": given.shape, "weights_gb": round(size / 1e9, 2), **result}))  # noqa: T201
    finally:
        shutil.rmtree(root, ignore_errors=True)


def read_flags() -> argparse.Namespace:
    """The command's flags; the quantizer found, or built."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--no-checks", action="store_true")
    parser.add_argument("--llama-quantize", dest="quantizer")
    given = parser.parse_args()
    given.quantizer = given.quantizer or str(find_or_build("llama-quantize"))
    return given


# --- the model ------------------------------------------------------------------------------------------------------


def make(root: Path, shape: dict[str, int]) -> int:
    """Base, adapter and tokens below `root`, with Llama 3's real tokenizer; bytes of the base."""
    from tests.stages.weights.support.random_model import make_base, make_random_adapter

    shutil.copytree(llama3.folder() / llama3.TOKENIZER, root / "tokens/tokenizer")
    make_rows(root / "tokens")
    common = {"vocab_size": 128_256, "num_key_value_heads": 8, "max_position_embeddings": 8192}
    settings = {**common, "head_dim": shape["hidden_size"] // shape["num_attention_heads"], **shape}
    make_base(root / "base", SHARD, **settings, tie_word_embeddings=True, architectures=["LlamaForCausalLM"])
    make_random_adapter(root / "base", root / "tokens", root / "adapter")
    return sum(file.stat().st_size for file in (root / "base").glob("*.safetensors"))


def make_rows(folder: Path) -> None:
    """heldout.arrow, train.arrow and summary.json: dialogues of words drawn from the vocabulary, in the template's form."""
    import pyarrow as pa
    from tokenizers import Tokenizer

    from stages.contracts.tokens import SCHEMA
    from tests.arrow_files import write_arrow

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    draw = random.Random(0)
    begin, end = tokenizer.token_to_id("<|begin_of_text|>"), tokenizer.token_to_id("<|eot_id|>")

    def turn(role: str) -> tuple[list[int], list[int]]:
        head = tokenizer.encode(f"<|start_header_id|>{role}<|end_header_id|>\n\n", add_special_tokens=False).ids
        return head, [*(draw.randrange(1000, 100_000) for _ in range(TURN_TOKENS // 2)), end]

    table: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for number in range(ROWS):
        ids, labels = [begin], [-100]
        for _ in range(TURNS):
            for role in ("user", "assistant"):
                head, text = turn(role)
                ids += head + text
                labels += [-100] * len(head) + (text if role == "assistant" else [-100] * len(text))
        table["row_id"].append(f"{number:032x}")
        table["input_ids"].append(ids)
        table["labels"].append(labels)
    for split in ("train", "heldout"):
        write_arrow(folder / f"{split}.arrow", pa.table(table, schema=SCHEMA))
    summary = {
        "control_tokens": {"as_text": [], "added": {}},
        "end_of_turn": {"text": "<|eot_id|>", "ids": [end], "special": True, "inner": ""},
        "answer": {"gap": "", "opens": "", "closes": "", "ends": ""},
        "vocabulary_size": tokenizer.get_vocab_size(),
    }
    (folder / "summary.json").write_text(json.dumps(summary))


# --- the measurement ------------------------------------------------------------------------------------------------


def measure(root: Path, quantizer: str, repeat: int, *, checks: bool) -> dict[str, Any]:
    """All steps of all parts, `repeat` times; the tables, the ratios and the comparison."""
    runs: dict[str, list[dict[str, Measured]]] = {"ours": [], "bare": []}
    for _ in range(repeat):
        for part, steps in (("ours", ours(root)), ("bare", bare(root, quantizer))):
            empty(root / part)
            runs[part].append({name: run(root, command, reads) for name, command, reads in steps})
    equal = {name: compare_files(root / f"ours/{name}.gguf", root / f"bare/{name}.gguf") for name in QUANTIZATIONS}
    empty(root / "bare")
    if checks:
        empty(root / "checked")
        runs["checked"] = [{name: run(root, command, reads) for name, command, reads in checked(root)}]
    tables = {part: table(part, measures) for part, measures in runs.items()}
    sums = {part: round(sum(row["wall_s"] for row in rows.values()), 1) for part, rows in tables.items()}
    export = {
        part: round(sum(row["wall_s"] for step, row in tables[part].items() if step != "merge"), 1)
        for part in ("ours", "bare")
    }
    for name, (same, all_) in equal.items():
        say(f"{name}: {same} of {all_} tensors are llama-quantize's, byte for byte")
    say(f"merge + convert + quantize: ours {sums['ours']} s, bare {sums['bare']} s: {sums['ours'] / sums['bare']:.2f}x")
    say(
        f"convert + quantize alone: ours {export['ours']} s, bare {export['bare']} s: {export['ours'] / export['bare']:.2f}x"
    )
    return {
        "ours_s": sums["ours"],
        "bare_s": sums["bare"],
        "ratio": round(sums["ours"] / sums["bare"], 3),
        "convert_and_quantize": {**export, "ratio": round(export["ours"] / export["bare"], 3)},
        "checked_s": sums.get("checked"),
        "equal_tensors": {name: list(pair) for name, pair in equal.items()},
        "steps": tables,
    }


def ours(root: Path) -> list[Step]:
    """Our steps, without checks."""
    full = root / "ours/full.gguf"
    quantized = [(name, step("quantize", root, name), [full]) for name in QUANTIZATIONS]
    return [
        ("merge", step("merge", root), [root / "base"]),
        ("convert", step("convert", root), [root / "ours/merged"]),
        *quantized,
    ]


def bare(root: Path, quantizer: str) -> list[Step]:
    """The tools themselves."""
    from stages.llama_cpp.sources import find_sources

    full = root / "bare/full.gguf"
    converter = [sys.executable, str(find_sources() / "convert_hf_to_gguf.py"), str(root / "ours/merged")]
    quantized = [
        (name, [quantizer, str(full), str(root / f"bare/{name}.gguf"), name.upper()], [full]) for name in QUANTIZATIONS
    ]
    return [
        ("merge", step("bare_merge", root), [root / "base"]),
        ("convert", [*converter, "--outfile", str(full), "--outtype", "bf16"], [root / "ours/merged"]),
        *quantized,
    ]


def checked(root: Path) -> list[Step]:
    """The stages as they are."""
    return [
        ("merge", step("checked_merge", root), [root / "base"]),
        ("gguf", step("checked_gguf", root, *QUANTIZATIONS), [root / "ours/merged"]),
    ]


def step(name: str, root: Path, *more: str) -> list[str]:
    """The command of a step of tests/bench/export_steps.py."""
    return [sys.executable, "-m", "tests.bench.export_steps", name, str(root), *more]


def run(root: Path, command: list[str], reads: list[Path]) -> Measured:
    """Run a step with nothing of what it reads in memory."""
    os.sync()
    for path in reads:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb") as handle:
                    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": paths}
    return measured(command, root, {**os.environ, **offline})


def empty(folder: Path) -> None:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def table(part: str, runs: list[dict[str, Measured]]) -> dict[str, dict[str, Any]]:
    """Medians of each step, said and as figures; memory: the most of any run, with the processes below it."""
    rows = {}
    say(f"{part:8}  wall s   cpu s   peak MiB   (its processes)")
    for name in runs[0]:
        found = [measures[name] for measures in runs]
        processes = max(([one.peak_mib, *one.workers_mib] for one in found), key=max)
        rows[name] = {
            "wall_s": round(statistics.median(one.wall for one in found), 1),
            "cpu_s": round(statistics.median(one.cpu for one in found), 1),
            "peak_mib": max(max(one.together_mib, *([one.peak_mib, *one.workers_mib])) for one in found),
        }
        row = rows[name]
        say(f"  {name:8} {row['wall_s']:6.1f} {row['cpu_s']:7.1f} {row['peak_mib']:10}   {processes[:3]}")
    return rows


def compare_files(one: Path, other: Path) -> tuple[int, int]:
    """How many tensors of two GGUF files are the same byte for byte in the same type, and how many there are."""
    import gguf

    ours, theirs = ({tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors} for path in (one, other))
    same = [
        name
        for name in ours.keys() & theirs.keys()
        if ours[name].tensor_type == theirs[name].tensor_type
        and memoryview(ours[name].data).tobytes() == memoryview(theirs[name].data).tobytes()
    ]
    return len(same), len(ours.keys() | theirs.keys())


def say(line: str) -> None:
    """A line, at once, beside the result."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
