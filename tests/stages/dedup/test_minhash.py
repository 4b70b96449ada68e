import hashlib
import os
import subprocess
import sys
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.dedup.minhash import (
    COMPARED,
    LEAF,
    PERMUTATIONS,
    band_width,
    find_near_duplicates,
    find_near_heldout,
    sketch_texts,
)

VOCABULARY = [f"word{i}" for i in range(2_000)]
ALPHABET = st.text(alphabet="ab 你.", max_size=30)


def text_of(seed, length=150):
    return " ".join(Random(seed).choices(VOCABULARY, k=length))


def replaced(text, share, seed=0):
    rng, found = Random(seed), text.split()
    for at in rng.sample(range(len(found)), round(share * len(found))):
        found[at] = f"other{rng.randrange(10**9)}"
    return " ".join(found)


def alike(values, rows, other, threshold):
    return (values[rows] == values[other]).mean(axis=-1) >= threshold


def test_sketches_case_punctuation_and_space_changed_are_equal():
    one, other = sketch_texts(["Where is Ivan? In the barn.", "where  is IVAN -- in the\nbarn"])
    assert (one == other).all()


def test_sketches_words_replaced_estimate_the_jaccard_similarity_of_shingles():
    texts = [text_of(seed) for seed in range(200)]
    for share in (0.02, 0.1):
        edited = [replaced(text, share) for text in texts]
        shingles = [
            [{*zip(t.split(), t.split()[1:], t.split()[2:], strict=False)} for t in side] for side in (texts, edited)
        ]
        true = np.mean([len(a & b) / len(a | b) for a, b in zip(*shingles, strict=True)])
        assert abs((sketch_texts(texts) == sketch_texts(edited)).mean() - true) < 0.01


@settings(deadline=None, max_examples=50)
@given(st.lists(ALPHABET, max_size=12), st.integers(0, 12))
def test_sketches_any_chunks_are_the_same(texts, cut):
    whole = sketch_texts(texts)
    assert whole.shape == (len(texts), PERMUTATIONS)
    assert (whole == np.concatenate([sketch_texts(texts[:cut]), sketch_texts(texts[cut:])])).all()


def test_sketches_other_process_threads_and_hash_seed_are_the_same():
    texts = [text_of(seed) for seed in range(20)]
    script = (
        "import hashlib, sys; from stages.dedup.minhash import sketch_texts;"
        "print(hashlib.sha256(sketch_texts(sys.argv[1:]).tobytes()).hexdigest())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "1", "RENSA_FORCE_KERNEL": "scalar"}
    other = subprocess.run(
        [sys.executable, "-c", script, *texts], env=environment, capture_output=True, check=True, text=True
    )
    assert other.stdout.strip() == hashlib.sha256(sketch_texts(texts).tobytes()).hexdigest()


def test_sketches_known_text_is_pinned():
    """A new version of rensa that sketches in another way must be seen: it changes which rows are kept."""
    assert sketch_texts(["Where is Ivan? In the barn."])[0, :4].tolist() == [20984, 64482, 12930, 24838]


def test_sketches_short_texts_are_alike_only_if_equal():
    values = sketch_texts(["yes", "no", "Yes!", "", "🙂", "yes yes"])
    of = find_near_duplicates(values, np.ones(6, np.bool_), 0.8)
    assert of.tolist() == [-1, -1, 0, -1, -1, -1]


@pytest.mark.parametrize(("share", "least", "most"), [(0.01, 0.97, 1), (0.1, 0, 0.02)])
def test_near_heldout_words_replaced_is_found_by_the_share(share, least, most):
    texts = [text_of(seed) for seed in range(200)]
    values = sketch_texts([*texts, *(replaced(text, share) for text in texts)])
    of = find_near_heldout(values, np.arange(400) < 200, 0.8)
    assert (of[:200] == -1).all()
    found = of[200:] == np.arange(200)
    assert least <= found.mean() <= most
    assert ((of[200:] == -1) | found).all()


def test_near_heldout_no_heldout_or_no_row_is_none():
    values = sketch_texts([text_of(1), text_of(1)])
    assert find_near_heldout(values, np.zeros(2, np.bool_), 0.8).tolist() == [-1, -1]
    assert find_near_heldout(values, np.ones(2, np.bool_), 0.8).tolist() == [-1, -1]
    assert find_near_heldout(values[:0], np.zeros(0, np.bool_), 0.8).tolist() == []
    assert find_near_duplicates(values[:0], np.zeros(0, np.bool_), 0.8).tolist() == []


@pytest.mark.parametrize("rows_between", [0, 3 * LEAF])
def test_near_duplicates_chain_keeps_the_first_and_what_only_repeats_a_dropped_row(rows_between):
    a = np.arange(PERMUTATIONS, dtype=np.uint16)
    b, c = a.copy(), a.copy()
    b[:20] += 1_000  # 84 % of a
    c[:40] += 1_000  # 84 % of b, 69 % of a
    between = np.random.default_rng(0).integers(0, 2**16, (rows_between, PERMUTATIONS)).astype(np.uint16)
    between[:, :20] = 1  # so that they are candidates of each other and not left out
    values = np.concatenate([np.stack([a, b]), between, np.stack([c, b])])
    among = np.ones(len(values), np.bool_)
    of = find_near_duplicates(values, among, 0.8)
    assert of[[0, 1, -2, -1]].tolist() == [-1, 0, -1, 0]
    assert (of[2:-2] == -1).all()
    among[0] = False
    assert find_near_duplicates(values, among, 0.8)[[0, 1, -2, -1]].tolist() == [-1, -1, 1, 1]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.6, 0.8, 0.95, 1.0]), st.integers(1, 3 * LEAF))
def test_near_duplicates_any_rows_refer_to_earlier_kept_ones_that_are_alike(seed, threshold, n):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**16, (n, PERMUTATIONS)).astype(np.uint16)
    copies = np.flatnonzero(rng.random(n) < 0.5)
    kept = rng.random((len(copies), PERMUTATIONS)) < rng.random((len(copies), 1))
    values[copies] = np.where(kept, values[rng.integers(0, n, len(copies))], values[copies])
    among = rng.random(n) < 0.9
    of = find_near_duplicates(values, among, threshold)
    rows = np.flatnonzero(of >= 0)
    assert (of[rows] < rows).all()
    assert (of[of[rows]] == -1).all()
    assert among[rows].all()
    assert among[of[rows]].all()
    assert alike(values, rows, of[rows], threshold).all()
    kept_rows = np.flatnonzero(among & (of < 0))
    missed = sum(alike(values, kept_rows[at + 1 :], row, threshold).any() for at, row in enumerate(kept_rows))
    assert missed <= 2 + 0.05 * len(rows)


def test_near_duplicates_large_cluster_and_boilerplate_stays_linear_and_finds_them():
    """50,000 rows in the same buckets: pair by pair they would be 1.25 billion comparisons."""
    rng = np.random.default_rng(0)
    n = 50_000
    base = rng.integers(0, 2**16, PERMUTATIONS).astype(np.uint16)
    share = np.where(np.arange(n) % 2, 0.96, 0.6)[:, None]
    values = rng.integers(0, 2**16, (n, PERMUTATIONS)).astype(np.uint16)
    values = np.where(rng.random((n, PERMUTATIONS)) < share, base, values)
    of = find_near_duplicates(values, np.ones(n, np.bool_), 0.8)
    assert (of[1::2] >= 0).mean() > 0.99
    assert (of[::2] == -1).all()


def test_near_heldout_large_bucket_looks_at_other_rows_in_each_band():
    """More held-out rows than are compared share the buckets of all bands but one, which the repeated row is not found by."""
    heldout = np.tile(np.arange(PERMUTATIONS, dtype=np.uint16), (5 * COMPARED, 1))
    heldout[:, -band_width(0.95) :] += np.arange(1, 5 * COMPARED + 1, dtype=np.uint16)[:, None] * 1_000
    repeats = heldout[-1:].copy()
    repeats[0, -1] = 7
    of = find_near_heldout(np.concatenate([heldout, repeats]), np.arange(5 * COMPARED + 1) < 5 * COMPARED, 0.95)
    assert of[-1] == 5 * COMPARED - 1


def test_band_width_higher_threshold_is_wider_and_keeps_recall():
    widths = [band_width(threshold) for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)]
    assert widths == sorted(widths)
    assert widths[-1] == PERMUTATIONS
    assert 1 - (1 - 0.8 ** widths[3]) ** (PERMUTATIONS // widths[3]) >= 0.98
