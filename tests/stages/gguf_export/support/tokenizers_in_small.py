"""Small byte-level BPE tokenizers, and GGUF files that hold nothing but one: made in well under a second."""

import json
import random
from pathlib import Path
from typing import Any

CONTROL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|pad|>")
WORDS = (  # noqa: SIM905 - words are read more easily than a list
    "the attic kitchen cellar garden has a red blue green lamp chair table box where is what who in on under near answer question "
    "don't it's we'll I'm they've you'd she're 12 345 6789 2024 3.14 Hello World camelCase snake_case HTTPServer ÅNGSTRÖM Straße naïve "
    "нещо на Български 我想在 日本語 한국어 العربية हिन्दी ... --- === !!! ??? #comment {key: value} [1, 2] (a) <b> \n \n\n \t x"
).split(" ")


def train(pre_tokenizer: Any, *, size: int = 1000, ignore_merges: bool = False, seed: int = 1) -> Any:
    """A tokenizers.Tokenizer trained on words thrown together; `seed` changes the merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    draw = random.Random(seed)
    texts = [
        "".join(draw.choice(WORDS) + draw.choice([" ", " ", "  ", "\n", ""]) for _ in range(40)) for _ in range(400)
    ]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL])
    return tokenizer


def split_by(*patterns: str) -> Any:
    """A pre-tokenizer that splits by regular expressions, one after the other, then into bytes: as Llama 3's and Qwen 2's do."""
    from tokenizers import Regex, pre_tokenizers

    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt_2(*, digits: bool = False) -> Any:
    """GPT-2's pre-tokenizer, perhaps with each digit alone, as SmolLM has it."""
    from tokenizers import pre_tokenizers

    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_]) if digits else bytes_


def save(tokenizer: Any, folder: Path, chat_template: str) -> Any:
    """Write a tokenizer's folder and load it with transformers."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": CONTROL[0], "eos_token": "<|eot_id|>", "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


def write_vocabulary(path: Path, tokenizer: Any, pre: str) -> None:
    """A GGUF file with a tokenizer and one layer of zeros, so that llama.cpp loads it."""
    import gguf
    import numpy as np

    model = json.loads(tokenizer.to_str())["model"]
    entries = [entry for entry, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(entries)
    writer.add_token_types([gguf.TokenType.CONTROL if entry in CONTROL else gguf.TokenType.NORMAL for entry in entries])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id(CONTROL[0]))
    writer.add_eos_token_id(tokenizer.token_to_id("<|eot_id|>"))
    writer.add_add_bos_token(False)  # noqa: FBT003 - gguf's own
    norms = ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"]
    matrices = [
        f"blk.0.{name}" for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    ]
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(32, dtype=np.float32))
    for name in matrices:
        writer.add_tensor(f"{name}.weight", np.zeros((32, 32), dtype=np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((len(entries), 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
