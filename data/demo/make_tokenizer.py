"""Trains the demo's tokenizer: byte-level BPE, 1,024 entries, Llama 3's splitting rule and control tokens.

Reads   world.py (its text) and the common words below; chat_template.jinja
Writes  FOLDER/tokenizer.json, tokenizer_config.json, chat_template.jinja
Command python data/demo/make_tokenizer.py data/demo/base
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))
import world

VOCABULARY = 1024
FULL_ANSWERS = 0.5  # share of the corpus's dialogues with full answers

# Llama 3's own splitting rule, to the letter: llama.cpp knows the pre-tokenizer by it.
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BEGIN, END_OF_TEXT, PAD, END_OF_TURN = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>"
# In the order of Llama 3.1's vocabulary, at the end of ours.
CONTROL_TOKENS = (
    BEGIN,
    END_OF_TEXT,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    PAD,
    "<|reserved_special_token_2|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    END_OF_TURN,
    "<|python_tag|>",
    *(f"<|reserved_special_token_{n}|>" for n in range(3, 8)),
)

# Fill what the world leaves of the vocabulary, so that other English is not spelled letter by letter.
COMMON_WORDS = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you were
her all she there would their we him been has when who will more no if out so said what up its about into than them can only
other new some could time these two may then do first any my now such like our over man me even most made after also did many
before must through back years where much your way well down should because each just those people how too little state good
very make world still own see men work long get here between both life being under never day same another know while last might
us great old year off come since against go came right used take three house again around small found went say part once general
high upon school every keep find think tell ask answer question please thank hello yes good morning evening give help want need
"""


def corpus() -> Iterator[str]:
    """World text, enough for every word to become one token, and then the common words with and without a space."""
    rng = Random(1)
    for _ in range(6000):
        group = world.people(rng, rng.randint(1, 4))
        turns = world.conversation(rng, group, 6, full=rng.random() < FULL_ANSWERS)
        yield from (turn.content for turn in turns)
        yield from (turn.role for turn in turns)
        yield "\n\n"
        first, then = world.story(rng, group, 1)
        yield " ".join(first + then)
        # Words that the world has in one place only are seldom at the start of a text: say each once more, alone.
        person = group[0]
        yield from (person.place, person.thing, person.color)
    for word in COMMON_WORDS.split():
        yield from (f" {word}", word, word.capitalize()) * 3


def train() -> str:
    """The tokenizer as the JSON text of tokenizer.json."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(CONTROL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in CONTROL_TOKENS])
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise SystemExit(f"the corpus gave {tokenizer.get_vocab_size()} entries in place of {VOCABULARY}")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BEGIN} $A",
                pair=f"{BEGIN} $A {BEGIN}:1 $B:1",
                special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
            ),
        ]
    )
    return str(tokenizer.to_str(pretty=True))


def config() -> dict[str, object]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END_OF_TURN,
        "pad_token": PAD,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 2048,
    }


def main(folder: Path) -> None:
    """Write the tokenizer's three files to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(train() + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config(), indent=2, sort_keys=True) + "\n", encoding="utf-8"
    )
    template = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
