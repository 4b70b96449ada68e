"""A GGUF file of a tokenizer folder with a model of no size: what llama.cpp makes of template and vocabulary needs no weights that mean something."""

from pathlib import Path
from typing import Any

import numpy as np

from stages.tokenization.loading.tokenizer_folder import load_tokenizer, read_tokenizer_folder

WIDTH, CONTEXT = 32, 8_192


def write_small_gguf(target: Path, folder: Path, *, adds_bos: bool) -> None:
    """Write the vocabulary and the template of a folder with a byte-level BPE that splits as Llama 3 does, and a Llama of one layer of zeros."""
    import gguf

    came = read_tokenizer_folder(folder)
    tokenizer = load_tokenizer(came.source)
    entries = {index: text for text, index in tokenizer.get_vocab(with_added_tokens=True).items()}
    added = tokenizer.get_added_tokens_decoder()
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(entries))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([entries[index] for index in range(len(entries))])
    writer.add_token_types([find_kind(added.get(index), gguf.TokenType) for index in range(len(entries))])
    writer.add_token_merges(read_merges(came.source))
    for name, add in {
        "bos_token": writer.add_bos_token_id,
        "eos_token": writer.add_eos_token_id,
        "pad_token": writer.add_pad_token_id,
    }.items():
        if name in came.tokens:
            add(tokenizer.token_to_id(came.tokens[name]))
    writer.add_add_bos_token(adds_bos)
    writer.add_chat_template(came.chat_template or "")
    square = np.zeros((WIDTH, WIDTH), np.float32)
    names = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    tensors = {f"blk.0.{name}.weight": square for name in names}
    tensors |= {f"blk.0.{name}.weight": np.ones(WIDTH, np.float32) for name in ("attn_norm", "ffn_norm")}
    tensors |= {
        "output_norm.weight": np.ones(WIDTH, np.float32),
        "token_embd.weight": np.zeros((len(entries), WIDTH), np.float32),
    }
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def find_kind(token: Any, kinds: Any) -> int:
    """The type of an entry as llama.cpp's converter gives it."""
    kind = kinds.NORMAL if token is None else kinds.CONTROL if token.special else kinds.USER_DEFINED
    return int(kind)


def read_merges(source: bytes) -> list[str]:
    """The merges of a tokenizer.json, as a GGUF file writes them."""
    import json

    merges = json.loads(source)["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
