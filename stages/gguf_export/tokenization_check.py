"""Proof that a GGUF file reads text as the tokenizer does: vocabulary, merges, ids over texts, the chat template, BOS, the end of a turn.

A file whose tokenizer is off loads, answers, and its logits agree; it only splits text in another way than training did.
"""

import json
import logging
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from stages.core.errors import StageError
from stages.gguf_export.modelfile import CONVERSATIONS, Message, Render
from stages.llama_cpp.gguf_reader import read_metadata
from stages.llama_cpp.runtime import Model
from stages.tokenization.exportable.pretokenizer import read_apart

log = logging.getLogger("retune")

# ruff: noqa: RUF001, Q003 - look-alikes and quotes are what these texts are for
TEXTS = (
    "Hello, world! This is one sentence. And this is another one?",
    "it's I'm we've they'll you'd don't can't IT'S I'M WE'VE 'tis 's 'S ''s o'clock rock'n'roll",
    "0 1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 1e-10 0x1F 007 ½ ² ٣٤٥ 五 Ⅷ",
    " leading", "  two", "   three spaces", "trailing ", "trailing  ", "a  b   c    d     e", "\t\ttabs\tand spaces \t mixed",
    "\n", "\n\n", "\n\n\n", "line\nline\n\nline\n\n\nline", "line\r\nline\r\n\r\n", " \n \n  \n", "end of line  \nnext", "\u00a0no\u00a0break\u3000wide",
    "....", "...!?!?", "------=======", "###", "```python\nprint('x')\n```", "!@#$%^&*()_+-=[]{}|;':\",./<>?`~\\", "a.b,c;d:e", "¿Qué? ¡Sí! «oui» “quoted” ‘single’ – —",
    "def f(x: int) -> str:\n    return f\"{x:>10}\"  # comment\n\n\nclass A(B):\n\tpass", "if (a && b || !c) { x += 1; }", "<div class=\"a\">text</div>", "{\"key\": [1, 2.5, null, true]}",
    "https://example.org/a/b?c=d&e=f#g user@example.org C:\\dir\\file.txt ~/x.tar.gz",
    "camelCase PascalCase snake_case SCREAMING_CASE kebab-case mixedCASEWord iPhone McDonald",
    "Ünïcödé naïve façade Straße ÅNGSTRÖM œuvre ŁÓDŹ ǅ ﬁ", "e\u0301 a\u0308 n\u0303 combining", "нещо на Български", "Ελληνικά", "עברית שלום", "العربية مرحبا", "हिन्दी नमस्ते", "ไทย สวัสดี", "កាន់តែពិសេសអាច",
    "我想在apple工作1314151天～", "日本語のテキスト、カタカナ。ひらがな", "한국어 텍스트", "中文，标点。！？", "🚀 😶\u200d🌫️ 🦙🦙 👨‍👩‍👧‍👦 🇩🇪 ✅ emoji😀glued",
    "zero\u200bwidth\u200djoiner\ufeffbom", "\u0000\u0001\u001f control \u007f", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=" * 70, " " * 40 + "x", "x" + "\n" * 20 + "y", "word " * 30, "",
)  # fmt: skip
"""Where splitting rules part: contractions, digits, runs of white space, line ends, punctuation, code, scripts, joined emoji, control characters."""


def verify_vocabulary(reader: Any, tokenizer: Any) -> None:  # noqa: ANN401 - gguf's and transformers' objects
    """Raise StageError unless the file holds the tokenizer's vocabulary and merges, entry by entry.

    Merges are compared for byte-level BPE alone: the other kinds have scores, and are proven by ids over texts.
    """
    entries: list[str] = read_metadata(reader, "tokenizer.ggml.tokens")
    vocabulary = {number: entry for entry, number in tokenizer.get_vocab().items()}
    if max(vocabulary) >= len(entries):
        raise StageError(
            f"the tokenizer has the id {max(vocabulary)}, but the file's vocabulary ends at {len(entries) - 1}; was the model resized with its tokenizer?"
        )
    different = [
        number for number, entry in vocabulary.items() if entries[number] not in (entry, entry.replace("▁", " "))
    ]
    if different:
        raise StageError(
            f"{len(different)} entries of the vocabulary differ between the file and data/tokens' tokenizer, the first at id {min(different)}; merge again"
        )
    if read_metadata(reader, "tokenizer.ggml.model") != "gpt2":
        return
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    ours = [
        merge if isinstance(merge, str) else " ".join(part.replace(" ", "Ġ") for part in merge)
        for merge in model["merges"]
    ]
    theirs: list[str] = read_metadata(reader, "tokenizer.ggml.merges") or []
    if ours != theirs:
        first = next(
            (rank for rank, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other),
            min(len(ours), len(theirs)),
        )
        raise StageError(
            f"the merges in the file are not those of data/tokens' tokenizer (from rank {first} on), so it splits text in another way; merge again with that tokenizer"
        )


def verify_texts(model: Model, tokenizer: Any, rows: Mapping[str, str]) -> int:  # noqa: ANN401 - transformers' tokenizer
    """Compare ids over TEXTS and the texts of `rows` ({row id: text}); how many were equal.

    Of the fixed list a text may differ if llama.cpp's copy of the tokenizer's rule is known not to be made for it (`read_apart`); a row may not.

    Raises StageError that names the first that differs, by number or row id.
    """
    fixed = {f"text {number} of the fixed list": text for number, text in enumerate(TEXTS)}
    own: Mapping[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    composed = "NFC" in str(own.get("normalizer"))
    apart = 0
    for name, raw in [*fixed.items(), *((f"row {row}", text) for row, text in rows.items())]:
        # Qwen 2's tokenizer composes accents first, and llama.cpp never does: text as it is typed is composed.
        text = unicodedata.normalize("NFC", raw) if composed else raw
        if model.tokenize(text) == encode(tokenizer, text):
            continue
        known = read_apart(text, own)
        if not known or name not in fixed:
            raise StageError(
                f"{model.name} tokenizes {name} in another way than data/tokens' tokenizer does; "
                + (
                    "llama.cpp's copy of its splitting rule is not made for letters such as accented capitals or Hindi's vowel signs, so "
                    "no GGUF file can read them as they were trained: serve data/merged itself, or set such rows aside (data/exclusions.csv)"
                    if known
                    else "its pre-tokenizer or vocabulary is not the tokenizer's"
                )
            )
        apart += 1
    if apart:
        log.warning(
            "llama.cpp splits text with accented capitals or combining marks in another way than this tokenizer does; the rows here have none of it"
        )
    return len(fixed) + len(rows) - apart


def verify_template(model: Model, tokenizer: Any) -> int:  # noqa: ANN401 - transformers' tokenizer
    """Compare the ids of CONVERSATIONS by the file's template in llama.cpp with those by the tokenizer's; how many were compared.

    Raises StageError where they differ, or where a dialogue begins with two BOS tokens.
    """
    template = model.chat_template()
    if template is None:
        raise StageError(
            f"{model.name} holds no chat template; the merged model's tokenizer must have it (chat_template.jinja)"
        )
    ours, theirs = make_renderer(tokenizer, None), make_renderer(tokenizer, template)
    compared = 0
    for messages in CONVERSATIONS:
        for answer in (True, False):
            text, other = ours(messages, answer=answer), theirs(messages, answer=answer)
            if text is None and other is None:
                continue
            if text is None or other is None or encode(tokenizer, text) != tokenize_as_served(model, tokenizer, other):
                raise StageError(
                    f"the chat template in {model.name} gives other ids than data/tokens' tokenizer does; the merged model holds another template (merge again)"
                )
            refuse_two_begins(encode(tokenizer, text), tokenizer.bos_token_id, "a dialogue by the chat template")
            compared += 1
    if not compared:
        raise StageError(
            "data/tokens' chat template renders none of the conversations that it was tried with (user, assistant, perhaps system turns)"
        )
    return compared


def tokenize_as_served(model: Model, tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401 - transformers' tokenizer
    """Ids of a rendered dialogue as llama.cpp's server makes them: it adds BOS where the file says so, and then drops the template's own."""
    if model.adds_bos and tokenizer.bos_token:
        text = text.removeprefix(tokenizer.bos_token)
    return model.tokenize(text, add_special=True)


def refuse_two_begins(ids: Sequence[int], bos: int | None, where: str) -> None:
    """Raise StageError where a sequence begins with BOS twice (further on, some templates do write one before each turn)."""
    if bos is not None and list(ids[:2]) == [bos, bos]:
        raise StageError(f"{where} begins with BOS twice; a model is trained with one (see template.chat_template)")


def begins_with_bos(tokenizer: Any) -> bool:  # noqa: ANN401 - transformers' tokenizer
    """Whether the template's dialogues begin with BOS: then the file must say that BOS is added, else that it is not."""
    text = next(filter(None, (make_renderer(tokenizer, None)(messages, answer=True) for messages in CONVERSATIONS)), "")
    return bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)


def make_renderer(tokenizer: Any, template: str | None) -> Render:  # noqa: ANN401 - transformers' tokenizer
    """A template as a function; `template` None takes the tokenizer's own."""
    from jinja2.exceptions import TemplateError

    def render(messages: Sequence[Message], *, answer: bool) -> str | None:
        try:
            text: str = tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=answer, chat_template=template
            )
        except TemplateError:
            return None  # Mistral's, for one, takes no system turn
        return text

    return render


def encode(tokenizer: Any, text: str) -> list[int]:  # noqa: ANN401 - transformers' tokenizer
    """Ids of a text as it stands: nothing added, control tokens in it read as such."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)
