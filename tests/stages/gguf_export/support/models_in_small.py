"""Small models: as a GGUF file with a safetensors folder beside it (NumPy alone), and as transformers folders with data/tokens."""

import json
from pathlib import Path
from typing import Any

import numpy as np

LLAMA_3_TEMPLATE = (
    "{{- bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def write_model(
    path: Path, *, architecture: str = "llama", layers: int = 2, hidden: int = 256, inner: int = 512, heads: int = 4, kv_heads: int = 2,
    tied: bool = False, kind: str = "F16", seed: int = 1,
) -> dict[str, np.ndarray]:  # fmt: skip
    """A GGUF file with random tensors (and no tokenizer), as the converter would write it; {name in the file: values as float32}."""
    import gguf

    draw = np.random.default_rng(seed)
    head = hidden // heads
    shapes = {"token_embd": (320, hidden), "output_norm": (hidden,)} | ({} if tied else {"output": (320, hidden)})
    for layer in range(layers):
        shapes |= {
            f"blk.{layer}.attn_norm": (hidden,), f"blk.{layer}.ffn_norm": (hidden,),
            f"blk.{layer}.attn_q": (hidden, hidden), f"blk.{layer}.attn_output": (hidden, hidden),
            f"blk.{layer}.attn_k": (kv_heads * head, hidden), f"blk.{layer}.attn_v": (kv_heads * head, hidden),
            f"blk.{layer}.ffn_gate": (inner, hidden), f"blk.{layer}.ffn_up": (inner, hidden), f"blk.{layer}.ffn_down": (hidden, inner),
        }  # fmt: skip
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(320)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{number}" for number in range(320)])
    values = {}
    for name, shape in shapes.items():
        matrix = len(shape) > 1
        value = (draw.standard_normal(shape) * 0.05 if matrix else 1 + 0.1 * draw.standard_normal(shape)).astype(
            np.float32
        )
        if matrix and kind == "F16":
            value = value.astype(np.float16)
        if matrix and kind == "BF16":
            upper = (value.view(np.uint32) >> 16).astype(np.uint16)
            writer.add_tensor(f"{name}.weight", upper, raw_dtype=gguf.GGMLQuantizationType.BF16)
            values[f"{name}.weight"] = (upper.astype(np.uint32) << 16).view(np.float32)
        else:
            writer.add_tensor(f"{name}.weight", value)
            values[f"{name}.weight"] = value.astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def write_imatrix(path: Path, model: Path, *, tokens: int = 4096) -> None:
    """An importance matrix for a model of `write_model`, some of whose columns are hardly used."""
    import gguf

    from stages.llama_cpp.imatrix_file import write_importance

    draw = np.random.default_rng(5)
    matrices = {
        tensor.name: int(tensor.shape[0])
        for tensor in gguf.GGUFReader(model).tensors
        if tensor.name.startswith("blk.") and len(tensor.shape) > 1
    }
    sums = {name: tokens * np.exp(draw.standard_normal(columns)) for name, columns in matrices.items()}
    write_importance(path, sums, tokens, rows=8, says={})


def folder_names(values: dict[str, np.ndarray], heads: int, kv_heads: int) -> dict[str, np.ndarray]:
    """The tensors of a Llama's GGUF file by transformers' names and in its order of rows, in 16 bits where they are matrices."""
    parts = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    whole = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output.weight": "lm_head.weight",
        "output_norm.weight": "model.norm.weight",
    }
    named = {}
    for name, value in values.items():
        if name in whole:
            target = whole[name]
        else:
            _, layer, part, _ = name.split(".")
            target = f"model.layers.{layer}.{parts[part]}.weight"
            if part in ("attn_q", "attn_k"):
                count = heads if part == "attn_q" else kv_heads
                rows = value.shape[0]
                value = value.reshape(count, rows // count // 2, 2, -1).swapaxes(1, 2).reshape(value.shape)  # noqa: PLW2901
        named[target] = np.ascontiguousarray(value.astype(np.float16) if value.ndim > 1 else value)
    return named


def make_merged(
    folder: Path,
    tokenizer: Any,
    *,
    family: str = "llama",
    tied: bool = False,
    vocabulary: int | None = None,
    seed: int = 1,
) -> None:
    """A transformers folder with random weights in bf16, whose vocabulary may be larger than its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config_class, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[
        family
    ]
    config = config_class(
        vocab_size=vocabulary or len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=tied, initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = model_class(config).to(torch.bfloat16)
    if family == "qwen2":
        for layer in model.model.layers:  # they start as zeros, which would prove nothing
            layer.self_attn.q_proj.bias.data.normal_(std=0.1)
            layer.self_attn.k_proj.bias.data.normal_(std=0.1)
            layer.self_attn.v_proj.bias.data.normal_(std=0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_tokens(folder: Path, tokenizer: Any, rows: int = 6, *, end: str = "<|eot_id|>", begins: int = 1) -> None:
    """data/tokens as the stage `template` writes it, in Llama 3's form, or with another text in place of what ends a turn."""
    import pyarrow as pa

    from tests.arrow_files import write_arrow

    tokenizer.save_pretrained(folder / "tokenizer")
    made = []
    for row in range(rows):
        ids, labels = [tokenizer.bos_token_id] * begins, [-100] * begins
        for turn in range(3):
            question = f"<|start_header_id|>user<|end_header_id|>\n\nWhere is lamp {row} {turn}?{end}<|start_header_id|>assistant<|end_header_id|>\n\n"
            answer = f"in the {['attic', 'cellar', 'garden'][turn]} {row}.{end}"
            for text, labelled in ((question, False), (answer, True)):
                more = tokenizer(text, add_special_tokens=False).input_ids
                ids, labels = ids + more, labels + (more if labelled else [-100] * len(more))
        made.append({"row_id": f"{row:032x}", "input_ids": ids, "labels": labels})
    schema = pa.schema([("row_id", pa.string()), ("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32()))])
    for split in ("train", "heldout"):
        write_arrow(folder / f"{split}.arrow", pa.Table.from_pylist(made, schema=schema))
    closing = tokenizer(end, add_special_tokens=False).input_ids
    special = len(closing) == 1 and closing[0] in tokenizer.added_tokens_decoder
    says = {"text": end, "ids": closing, "special": special, "inner": ""}
    (folder / "summary.json").write_text(json.dumps({"end_of_turn": says}), encoding="utf-8")


def make_adapter(folder: Path) -> None:
    """What the export reads of data/adapter: the weights' file."""
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
