import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.dedup.shingles import WORD, ngrams, normalize_text, word_hashes

TEXTS = st.lists(st.text(max_size=40), max_size=8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World! x_1\n\ttwice", "hello world x_1 twice"),
        ("Élan — naïve “test”", "élan naïve test"),
        ("STRASSE Straße", "strasse strasse"),
        ("ﬁne ｆｏｏ", "fine foo"),  # noqa: RUF001 - full-width letters are what is folded
        ("你好。世界 ok", "你 好 世 界 ok"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("🙂 ?!", "🙂?!"),
        ("+ - *", "+-*"),
        ("", ""),
    ],
)
def test_words_text_is_folded_and_cut(text, expected):
    assert normalize_text(text).split() == expected.split()


@settings(deadline=None)
@given(TEXTS)
def test_word_hashes_any_texts_equal_those_of_each_alone(texts):
    hashes, offsets = word_hashes(texts)
    assert len(offsets) == len(texts) + 1
    for row, text in enumerate(texts):
        alone, _ = word_hashes([text])
        assert len(alone) >= 1
        assert hashes[offsets[row] : offsets[row + 1]].tolist() == alone.tolist()


@settings(deadline=None)
@given(TEXTS, st.integers(1, 5))
def test_ngrams_any_rows_have_one_run_a_place_and_at_least_one(texts, n):
    hashes, offsets = word_hashes(texts)
    runs, starts = ngrams(hashes, offsets, n)
    assert np.diff(starts).tolist() == [max(1, length - n + 1) for length in np.diff(offsets)]
    by_words = {}
    for row in range(len(texts)):
        own = tuple(hashes[offsets[row] : offsets[row + 1]].tolist())
        for place, run in enumerate(runs[starts[row] : starts[row + 1]].tolist()):
            assert by_words.setdefault(own[place : place + n], run) == run
    assert len(set(by_words.values())) == len(by_words)


def test_word_hashes_known_word_has_the_same_hash_everywhere():
    assert word_hashes(["Hello, world"])[0].tolist() == [907060870, 980881731]


@pytest.mark.parametrize(
    "scripts",
    [
        [(0x20, 0x250)],
        [(0x20, 0x7F), (0x370, 0x530)],
        [(0x20, 0x7F), (0x590, 0x980)],
        [(0x20, 0x7F), (0x2000, 0x2070), (0x3040, 0x3060), (0x1F600, 0x1F610)],
    ],
)
def test_words_are_those_of_the_expression(scripts: list[tuple[int, int]]) -> None:
    chance = random.Random(str(scripts))
    letters = [chr(code) for first, last in scripts for code in range(first, last)]
    for _ in range(2_000):
        text = "".join(chance.choices(letters, k=chance.randrange(1, 12)))
        folded = unicodedata.normalize("NFKC", text).casefold()
        assert normalize_text(text).split() == (WORD.findall(folded) or ["".join(text.split())] * bool(text.split())), (
            ascii(text)
        )
