# ruff: noqa: RUF001 - odd characters are what it is for

import logging
import multiprocessing
import random
import re
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from stages.tokenization.loading.fast import Differs, FastEncoder, ReferenceEncoder, added_tokens, open_encoder
from stages.tokenization.loading.fast_libraries import LIBRARIES, Loaded
from stages.tokenization.loading.probe_texts import HARD, LONG, probe_texts
from tests.project import ROOT
from tests.stages.gguf_export.support.tokenizers_in_small import gpt_2, split_by, train
from tests.stages.tokenization.support.tokenizer_kinds import KINDS, ONLY_WORD, SPECIAL, make

pytestmark = pytest.mark.slow

DEMO = ROOT / "data/demo/base/tokenizer.json"
PIECES = [
    *SPECIAL, "<think>", "</think>", "<tool_call>", "Word", " ", "  ", "\n", "\r\n", "\t", "a", "é", "e\u0301", "ﬁ", "中文",
    "👩‍👩‍👧‍👦", "\u200b", "\u00a0", "\ue000", "\x00", "\x85", "'S", "I'LL", "123456", "_", "ſ", "İ", "<0x41>", "▁", "Ġ", "[UNK]", "\u0300",
    "한", "ᄒ", "\U000e0041", "Word\u1df6", "\U00032d3e{key", "a\u08ca", "\u2e4be",
]  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5))).map("".join))


GIGATOKEN, TOKENIZERS = LIBRARIES
CARRIED = {
    **dict.fromkeys(("demo", "llama-3", "gpt-4o", "gpt-2", "qwen", "llama-2", "gemma", "mistral"), GIGATOKEN),
    **dict.fromkeys(("smollm", "unigram", "bert", "llama-3 with a word", "gemma with a word"), TOKENIZERS),
}
"""Which library is chosen."""


@cache
def opened(kind: str) -> tuple[Tokenizer, FastEncoder]:
    name, _, word = kind.partition(" with ")
    tokenizer = Tokenizer.from_file(str(DEMO)) if name == "demo" else make(name, *[ONLY_WORD] * bool(word))
    encoder = open_encoder(tokenizer.to_str().encode(), tokenizer)
    assert isinstance(encoder, FastEncoder)
    return tokenizer, encoder


@pytest.mark.parametrize("kind", CARRIED)
def test_fastest_library_that_gives_the_references_ids_is_chosen(kind):
    _, encoder = opened(kind)
    chosen = GIGATOKEN if encoder.library.encode_plain is None else TOKENIZERS
    assert chosen is CARRIED[kind]
    assert set(KINDS) <= set(CARRIED)


def rows(encoded):
    ids, lengths = encoded
    assert ids.dtype == np.int32
    assert lengths.dtype == np.int64
    bounds = [0, *lengths.cumsum().tolist()]
    assert bounds[-1] == len(ids)
    return [ids[a:b].tolist() for a, b in pairwise(bounds)]


def assert_same(kind, texts):
    tokenizer, encoder = opened(kind)
    right = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert rows(encoder.encode(texts)) == right
    tokenizer.encode_special_tokens = True
    try:
        plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    finally:
        tokenizer.encode_special_tokens = False
    assert rows(encoder.encode_plain(texts)) == plain
    assert rows(encoder.reference.encode_plain(texts)) == plain
    return right, plain


@pytest.mark.parametrize("kind", CARRIED)
def test_ids_of_hard_texts_equal_the_references(kind):
    draw = random.Random(kind)
    mixed = ["".join(draw.choices([*PIECES, *HARD[3:20]], k=draw.randrange(1, 30))) for _ in range(200)]
    long = ["".join(draw.choices(PIECES, k=12_000)) for _ in range(3)]
    assert min(map(len, long)) > LONG
    assert_same(kind, [*HARD, *mixed, *long])


@pytest.mark.parametrize("kind", CARRIED)
@given(texts=st.lists(TEXTS, max_size=5))
@settings(max_examples=60, deadline=None)
def test_ids_of_any_text_equal_the_references(kind, texts):
    assert_same(kind, texts)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_text_keeps_special_tokens_as_text_and_other_added_tokens_as_tokens(kind):
    tokenizer, _ = opened(kind)
    special, thinks = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<think>")
    (right,), (plain,) = assert_same(kind, ["a<|im_end|>b <think>c"])
    assert special in right
    assert special not in plain
    assert thinks in plain


def test_nothing_to_encode_gives_empty_arrays():
    _, encoder = opened("llama-3")
    for each in (encoder, encoder.reference):
        assert rows(each.encode([])) == rows(each.encode_plain([])) == []
        assert rows(each.encode(["", ""])) == [[], []]


def test_reference_reads_special_tokens_again_after_plain_text():
    tokenizer = make("llama-3")
    ReferenceEncoder(tokenizer).encode_plain(["<|im_end|>"])
    assert len(tokenizer.encode("<|im_end|>").ids) == 1


def test_characters_that_the_libraries_class_differently_are_left_to_the_reference():
    # the guard is what makes the difference: without it the fast library splits differently
    tokenizer, encoder = opened("llama-3")
    text = "\U00032d3e{key"
    right = tokenizer.encode(text, add_special_tokens=False).ids
    assert encoder.library.encode(text).tolist() != right
    assert rows(encoder.encode([text])) == [right]


def encoded_in_a_fork(queue, texts):
    _, encoder = opened("llama-3")
    queue.put([part.tolist() for part in encoder.encode(texts)])


def test_forked_process_gives_the_same_ids_after_the_parent_has_used_threads():
    texts = ["the attic " * 5_000, "kitchen <|im_end|>"]
    _, encoder = opened("llama-3")
    here = [part.tolist() for part in encoder.encode(texts)]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=encoded_in_a_fork, args=(queue, texts))
    process.start()
    try:
        assert queue.get(timeout=60) == here
    finally:
        process.kill()
        process.join()


RANDOM_WORDS = """
import sys
import numpy as np
from stages.tokenization.loading.fast_libraries import LIBRARIES, ROOM, resident_bytes
from tests.stages.tokenization.support.tokenizer_kinds import make
tokenizer = make("llama-3")
encode = LIBRARIES[0].load(tokenizer.to_str().encode()).encode
chance, before, largest = np.random.default_rng(0), resident_bytes(), 0
for _ in range(60):
    letters = chance.integers(97, 123, (250_000, 8), dtype=np.uint8)
    letters[:, 7] = 32
    text = letters.tobytes().decode()
    for start in range(0, len(text), 20_000):
        encode(text[start : start + 20_000])
    largest = max(largest, resident_bytes() - before)
assert encode(text[:1000]).tolist() == tokenizer.encode(text[:1000]).ids
print(largest / ROOM)
"""


@pytest.mark.slow
def test_memory_is_bounded_where_all_words_are_different():
    done = subprocess.run([sys.executable, "-c", RANDOM_WORDS], cwd=ROOT, capture_output=True, text=True, check=True)
    # 120 MB: without a bound it is 4 times ROOM
    assert 0.5 < float(done.stdout) < 2.5


def test_tokenizer_that_is_made_anew_gives_the_same_ids(monkeypatch):
    tokenizer = make("llama-3")
    monkeypatch.setattr("stages.tokenization.loading.fast_libraries.LOOK_EVERY", 50)
    monkeypatch.setattr("stages.tokenization.loading.fast_libraries.ROOM", -(2**40))
    encode = GIGATOKEN.load(tokenizer.to_str().encode()).encode
    first = encode.encode
    text = "the kitchen has a red lamp <|im_end|> 中文"
    for _ in range(5):
        assert encode(text).tolist() == tokenizer.encode(text).ids
    assert encode.encode is not first


# --- where the reference does the work ------------------------------------------------------------------------------


def opened_with_log(caplog, tokenizer, source=None):
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "retune"):
        encoder = open_encoder(source or tokenizer.to_str().encode(), tokenizer)
    assert isinstance(encoder, ReferenceEncoder)
    (record,) = caplog.records
    text = "the kitchen <|im_end|> and Word"
    assert rows(encoder.encode([text])) == [tokenizer.encode(text, add_special_tokens=False).ids]
    return record


def test_library_that_is_not_installed_leaves_the_work_to_the_reference(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    record = opened_with_log(caplog, make("llama-3"))
    assert record.levelno == logging.WARNING
    assert "make setup" in record.message


def test_library_that_does_not_load_leaves_the_work_to_the_reference(caplog, monkeypatch, tmp_path):
    for library in LIBRARIES:
        (tmp_path / f"apart/{library.package}").mkdir(parents=True)
        (tmp_path / f"apart/{library.package}/__init__.py").write_text("raise ImportError('made for another libc')\n")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    message = opened_with_log(caplog, make("llama-3")).message
    assert all(f"{library.package}: made for another libc" in message for library in LIBRARIES)


def test_library_that_is_missing_leaves_the_work_to_the_next(caplog, monkeypatch, tmp_path):
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart/tokenizers").symlink_to(Path(sys.prefix) / "apart/tokenizers")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    tokenizer = make("llama-3")
    encoder = open_encoder(tokenizer.to_str().encode(), tokenizer)
    assert isinstance(encoder, FastEncoder)
    assert encoder.library.encode_plain
    assert not caplog.records


def test_tokenizer_that_no_library_supports_is_left_to_the_reference(caplog):
    record = opened_with_log(caplog, train(split_by(r"\p{N}{1,3}", r"[\p{L}\p{M}]+|\p{P}+|\s+")))
    assert record.levelno == logging.INFO
    assert "gigatoken: Unknown" in record.message
    assert re.search("tokenizers: .*pattern", record.message)


def test_tokenizer_that_gets_other_ids_is_left_to_the_reference(caplog):
    # one looks for it inside of words, too, the other misses it in words of one letter that is repeated
    record = opened_with_log(caplog, make("mistral", AddedToken("q", single_word=True)))
    assert len(re.findall(r"other ids for \d+ probe texts", record.message)) == len(LIBRARIES)


def test_tokenizer_json_of_other_content_is_found_out(caplog):
    other = train(gpt_2(), seed=2).to_str().encode()
    assert "other ids" in opened_with_log(caplog, make("llama-3"), other).message


def test_rows_with_other_ids_end_in_differs_without_their_text():
    _, encoder = opened("llama-3")
    texts = ["the attic has", "a red lamp"]
    ids, lengths = encoder.encode(texts)
    encoder.verify(texts, ids, lengths)
    wrong = ids.copy()
    wrong[1] += 1
    for given_ids, given_lengths in ((wrong, lengths), (ids, lengths + np.array([1, -1]))):
        with pytest.raises(Differs) as caught:
            encoder.verify(texts, given_ids, given_lengths)
        assert "attic" not in str(caught.value)


class PanicException(BaseException):
    pass


@pytest.mark.parametrize(
    ("raised", "seen"), [(ValueError, Differs), (PanicException, Differs), (KeyboardInterrupt, KeyboardInterrupt)]
)
def test_text_that_the_library_fails_at_ends_in_differs_without_the_text(raised, seen):
    _, encoder = opened("llama-3")

    def fail(text):
        raise raised(text)

    fast = FastEncoder(Loaded(fail, fail), encoder.reference)
    for encode in (fast.encode, fast.encode_plain):
        with pytest.raises(seen) as caught:
            encode(["secret"])
        assert seen is KeyboardInterrupt or "secret" not in str(caught.value)


# --- what is probed and what is installed ---------------------------------------------------------------------------


def test_probes_write_out_every_added_token_and_hold_long_texts():
    tokenizer = make("qwen")
    written = [token.content for token in added_tokens(tokenizer)]
    probes = probe_texts(written)
    assert {*SPECIAL, "<think>"} <= set(written)
    assert set(written) <= set(probes)
    assert sum(len(probe.encode()) > LONG for probe in probes) >= 3
    assert "" in probes
    assert probe_texts([])


def test_lock_of_the_libraries_apart_names_no_address_and_has_hashes():
    lock = (ROOT / "requirements-apart.lock").read_text(encoding="utf-8")
    pins = [line for line in lock.splitlines() if line and line[0] not in " #"]
    assert len(pins) == len(LIBRARIES)
    for pin, library in zip(pins, sorted(LIBRARIES), strict=True):
        assert re.fullmatch(rf"{library.package}==\S+ \\", pin)
    assert lock.count("--hash=sha256:") > 10
    assert "://" not in lock


def test_libraries_apart_are_those_of_the_lock():
    lock = (ROOT / "requirements-apart.lock").read_text()
    for name, pin in re.findall(r"^([a-z]+)==(\S+)", lock, re.MULTILINE):
        assert (Path(sys.prefix) / "apart" / f"{name}-{pin}.dist-info").is_dir()
