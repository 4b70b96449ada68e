"""data/demo/base: the tokenizer and its template, and a model whose sizes all quantizations can take."""

import json
import struct
from random import Random

import make_tokenizer
import pytest
import world
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

MESSAGES = [
    {"role": "system", "content": "You know this village well."},
    {"role": "user", "content": "  Tezo is in the attic. Where is Tezo?\n"},
    {"role": "assistant", "content": "In the attic."},
]
RENDERED = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou know this village well.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nTezo is in the attic. Where is Tezo?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nIn the attic.<|eot_id|>"
)


@pytest.fixture(scope="module")
def tokenizer(demo):
    return Tokenizer.from_file(str(demo / "base" / "tokenizer.json"))


def render(demo, **given):
    # As transformers does it.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    source = (demo / "base" / "chat_template.jinja").read_text(encoding="utf-8")
    return environment.from_string(source).render(bos_token="<|begin_of_text|>", **given)


def test_template_renders_llama_3_form(demo):
    assert render(demo, messages=MESSAGES) == RENDERED
    opened = render(demo, messages=MESSAGES[:2], add_generation_prompt=True)
    assert opened == RENDERED.removesuffix("In the attic.<|eot_id|>")


def test_tokenizer_made_again_is_the_committed_one(demo, tmp_path):
    make_tokenizer.main(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / name).read_bytes() == (demo / "base" / name).read_bytes()


@pytest.mark.parametrize("text", ["In the attic.", " two  spaces\n\n\tand a tab", "Zoë 🦙 123456", "l'été, don't\r\n"])
def test_tokenizer_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_tokenizer_every_word_of_the_world_is_one_token(tokenizer):
    words = [*world.NAMES, *world.PLACES, *world.THINGS, *world.COLORS, "system", "user", "assistant"]
    for word in [*words, "\n\n", *(f" {word}" for word in words[:-3])]:
        assert len(tokenizer.encode(word, add_special_tokens=False).ids) == 1, word


def test_tokenizer_sentences_encoded_apart_are_the_text_encoded_whole(tokenizer):
    rng = Random(4)
    for _ in range(50):
        first, then = world.story(rng, world.people(rng, 3), 1)
        whole = tokenizer.encode(" ".join(first + then), add_special_tokens=False).ids
        parts = [first[0], *(f" {sentence}" for sentence in (first + then)[1:])]
        assert [i for part in parts for i in tokenizer.encode(part, add_special_tokens=False).ids] == whole


def test_tokenizer_control_tokens_are_special_and_pad_is_not_eos(demo, tokenizer):
    config = json.loads((demo / "base" / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<|begin_of_text|>", "<|eot_id|>")
    assert config["pad_token"] == "<|finetune_right_pad_id|>"  # noqa: S105 - not a secret
    assert tokenizer.get_vocab_size() == 1024
    rendered = tokenizer.encode(RENDERED, add_special_tokens=False)
    control = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    assert [t for i, t in zip(rendered.ids, rendered.tokens, strict=True) if i in control] == [
        "<|begin_of_text|>",
        *["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"] * 3,
    ]
    assert tokenizer.encode("Yes").ids[0] == tokenizer.token_to_id("<|begin_of_text|>")


def test_base_sizes_fit_k_quants_and_the_tokenizer(demo, tokenizer):
    config = json.loads((demo / "base" / "config.json").read_text())
    data = (demo / "base" / "model.safetensors").read_bytes()
    assert len(data) < 10_000_000
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    header.pop("__metadata__", None)
    for name, tensor in header.items():
        assert tensor["dtype"] == "BF16", name
        assert tensor["shape"][-1] % 256 == 0, name
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    assert config["vocab_size"] == tokenizer.get_vocab_size()
    assert config["pad_token_id"] == tokenizer.token_to_id("<|finetune_right_pad_id|>")
    assert config["pad_token_id"] not in config["eos_token_id"]
    assert tokenizer.token_to_id("<|eot_id|>") in config["eos_token_id"]


@pytest.mark.slow
def test_base_knows_its_world_also_in_nf4_and_not_the_task(demo):
    import pretrain
    from safetensors.torch import load_file

    encoder = pretrain.Encoder(pretrain.load_tokenizer(demo / "base"))
    model = pretrain.Llama(pretrain.Shape())
    model.load_state_dict({name: w.float() for name, w in load_file(demo / "base" / "model.safetensors").items()})
    measures = pretrain.measure(model, encoder, "cpu", 40)
    assert measures["short"] > 0.98
    assert measures["short, NF4"] > 0.98
    assert measures["full"] < 0.05
    assert pretrain.difference_from_transformers(model, encoder, demo / "base") < 1e-4
