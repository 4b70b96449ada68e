import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.dedup.minhash import PERMUTATIONS, find_near_heldout, sketch_texts
from stages.dedup.prefilter import (
    COMMON,
    LARGEST_HELDOUT,
    LOSS,
    MISSING,
    RUN,
    WINDOW,
    HeldoutRuns,
    SamplingPlan,
    compute_signs,
    hash_all_runs,
    hash_run,
    hash_runs_at,
    may_repeat,
    normalize_short_texts,
    plan_sampling,
    sample_runs,
)
from stages.dedup.shingles import normalize_text

ALPHABETS = {
    "latin": "abcdefghij",
    "cyrillic": "абвгдежзик",
    "accents": "aéioüßñce",
    "hindi": "कखगघचछजझनम",
}
PLAN = SamplingPlan(6, 2)


def runs_of(texts):
    return HeldoutRuns.join([hash_all_runs(texts[:20]), hash_all_runs(texts[20:])])


def text_of(chance, alphabet, length=250):
    return " ".join("".join(chance.choices(alphabet, k=chance.randrange(2, 9))) for _ in range(length))


def replaced(text, share, chance):
    return " ".join(f"other{chance.randrange(10**9)}" if chance.random() < share else word for word in text.split())


def with_addition(text, share, chance):
    said = text.split()
    place = chance.randrange(len(said))
    said[place:place] = [f"new{chance.randrange(10**9)}" for _ in range(round(share * len(said)))]
    return " ".join(said)


def without_some(text, share, chance):
    said = text.split()
    place = chance.randrange(len(said))
    del said[place : place + round(share * len(said))]
    return " ".join(said)


def loud(text, _share, chance):
    return "".join(chance.choice([" -- ", "\n", ", "]) if sign == " " else sign.upper() for sign in text)


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize(
    ("change", "share"),
    [(replaced, 0.03), (replaced, 0.06), (with_addition, 0.2), (with_addition, 0.25), (without_some, 0.15), (loud, 0)],
)
def test_may_repeat_rows_that_are_near_by_their_sketches_are_all_but_none_lost(alphabet, change, share):
    chance = random.Random(f"{alphabet} {share}")
    heldout = [text_of(chance, ALPHABETS[alphabet]) for _ in range(300)]
    rows = [change(text, share, chance) for text in heldout]
    values = sketch_texts([*heldout, *rows])
    near = find_near_heldout(values, np.arange(600) < 300, 0.8)[300:] >= 0
    may = may_repeat(sample_runs(rows, PLAN.places), runs_of(heldout), PLAN.hits)
    assert near.sum() > 10
    assert (near & ~may).sum() <= 1


def test_may_repeat_rows_with_other_words_and_one_shared_phrase_are_not():
    chance = random.Random(0)
    phrase = text_of(chance, ALPHABETS["latin"], 25)
    heldout = [f"{phrase} {text_of(chance, ALPHABETS['latin'])}" for _ in range(50)]
    rows = [f"{phrase} {text_of(chance, ALPHABETS['latin'])}" for _ in range(500)]
    found = sample_runs(rows, PLAN.places)
    assert np.isin(found, hash_all_runs(heldout).hashes).any()
    assert not may_repeat(found, runs_of(heldout), PLAN.hits).any()
    assert may_repeat(sample_runs(heldout, PLAN.places), runs_of(heldout), PLAN.hits).all()


def heldout_runs(*rows):
    """Of held-out rows with these runs."""
    parts = [HeldoutRuns(np.array(runs, np.uint32), np.zeros(len(runs), np.int64)) for runs in rows]
    return HeldoutRuns.join(parts)


def test_may_repeat_asks_for_hits_in_one_row():
    rows = np.array(
        [[1, 2, 9, 9, 9, 9], [1, 9, 9, 9, 9, 9], [1, 7, 9, 9, 9, 9], [9] * 6, [8, 9, 9, 9, 9, 1]], np.uint32
    )
    runs = heldout_runs([2, 1], [7, 8], [8, 1])
    assert may_repeat(rows, runs, 2).tolist() == [True, False, False, False, True]
    assert may_repeat(rows, heldout_runs(), 2).tolist() == [False] * 5
    assert may_repeat(rows[:0], runs, 2).tolist() == []


def test_may_repeat_asks_for_less_where_places_tell_nothing_but_for_one_hit():
    nothing = [MISSING, 5]
    runs = heldout_runs([1, 5], *[[5]] * COMMON)
    for one in nothing:
        rows = np.array(
            [[one, one, 1, 9, 9, 9], [one, 1, 9, 9, 9, 9], [one, 1, 1, 9, 9, 9], [one, one, 9, 9, 9, 9]], np.uint32
        )
        assert may_repeat(rows, runs, 2).tolist() == [True, False, True, False]
        # with most of its places untold a row is sketched in any case
        assert may_repeat(np.array([[one, one, one, 9, 9, 9]], np.uint32), runs, 2).all()
    # the same run of fewer rows is a hit like others
    assert may_repeat(
        np.array([[5, 1, 9, 9, 9, 9], [5, 9, 9, 9, 9, 9]], np.uint32), heldout_runs([1, 5], [5]), 2
    ).tolist() == [True, False]


def test_may_repeat_rows_that_share_a_third_with_all_others_are_told_by_the_rest():
    chance = random.Random(3)
    prompt = text_of(chance, ALPHABETS["latin"], 120)
    heldout = [f"{prompt} {text_of(chance, ALPHABETS['latin'])}" for _ in range(50)]
    others = [f"{prompt} {text_of(chance, ALPHABETS['latin'])}" for _ in range(300)]
    near = [replaced(text, 0.03, chance) for text in heldout]
    assert may_repeat(sample_runs(others, PLAN.places), runs_of(heldout), PLAN.hits).mean() < 0.05
    assert may_repeat(sample_runs(near, PLAN.places), runs_of(heldout), PLAN.hits).mean() > 0.95


@pytest.mark.parametrize("rows", [1, 7, 50])
def test_may_repeat_any_number_of_rows_at_a_time_is_the_same(rows, monkeypatch):
    chance = np.random.default_rng(0)
    found = chance.integers(0, 40, (200, 6)).astype(np.uint32)
    runs = heldout_runs(*chance.integers(0, 40, (20, 5)).tolist())
    whole = may_repeat(found, runs, 2)
    assert 0 < whole.sum() < 200
    monkeypatch.setattr("stages.dedup.prefilter.ROWS_AT_A_TIME", rows)
    assert (may_repeat(found, runs, 2) == whole).all()


@settings(deadline=None)
@given(
    st.text(alphabet="ab_é你я.\u0301\u094d ", min_size=40, max_size=300), st.integers(0, 200), st.integers(30, WINDOW)
)
def test_runs_at_window_cut_anywhere_has_a_run_of_the_text(text, start, size):
    found = hash_runs_at([text[start : start + size]])[0]
    assert found == MISSING or found in hash_all_runs([text]).hashes


def test_runs_at_is_the_run_behind_the_cut_word():
    assert hash_runs_at(["ut. One, TWO three\nfour  five s"]).tolist() == [
        hash_run(["one", "two", "three", "four", "five"])
    ]
    assert hash_runs_at(["ut one two three four five", "", "🙂" * 50, "x" * 99]).tolist() == [MISSING] * 4


@settings(deadline=None)
@given(st.lists(st.text(max_size=20), max_size=20))
def test_words_of_short_are_those_of_each(texts):
    for text, found in zip(texts, normalize_short_texts(texts), strict=True):
        assert found.split() == (
            normalize_text(text).split() if any(sign.isalnum() or sign == "_" for sign in found) else []
        )


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab 你é.", max_size=200), max_size=8), st.integers(0, 8))
def test_samples_any_chunks_are_the_same(texts, cut):
    whole = sample_runs(texts, 6)
    assert whole.shape == (len(texts), 6)
    assert (whole == np.concatenate([sample_runs(texts[:cut], 6), sample_runs(texts[cut:], 6)])).all()


def test_samples_other_process_and_hash_seed_are_the_same():
    text = text_of(random.Random(1), ALPHABETS["accents"])
    script = "import sys; from stages.dedup.prefilter import *; print(sample_runs(sys.argv[1:], 6).tolist(), sorted(hash_all_runs(sys.argv[1:]).hashes.tolist()))"
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", script, text], env=environment, capture_output=True, check=True, text=True
    )
    assert other.stdout.strip() == f"{sample_runs([text], 6).tolist()} {sorted(hash_all_runs([text]).hashes.tolist())}"


def test_signs_heldout_rows_and_rows_with_few_words_are_sketched():
    chance = random.Random(2)
    texts = [text_of(chance, ALPHABETS["latin"]) for _ in range(3)] + ["short", "+" * 5_000, "QUJD" * 2_000]
    heldout = np.array([False, True, False, False, False, False])
    found = compute_signs(texts, heldout, PLAN)
    assert found.sketched.tolist() == [False, True, False, True, True, True]
    assert (found.sketches == sketch_texts([texts[row] for row in (1, 3, 4, 5)])).all()
    assert (found.samples == sample_runs([texts[0], texts[2]], PLAN.places)).all()
    assert sorted(found.runs.hashes) == sorted(hash_all_runs([texts[1]]).hashes)
    assert len(found.runs.hashes) == 250 - RUN + 1
    some = found.select(np.array([True, False, True, False, True, True]))
    assert some.sketched.tolist() == [False, False, True, True]
    assert (some.sketches == sketch_texts(texts[4:])).all()
    assert (some.samples == found.samples).all()


def test_signs_without_a_plan_all_rows_are_sketched():
    found = compute_signs(["one", "two"], np.array([True, False]), None)
    assert found.sketched.all()
    assert found.sketches.shape == (2, PERMUTATIONS)
    assert found.samples.size == found.runs.hashes.size == 0
    assert compute_signs([], np.zeros(0, np.bool_), PLAN).samples.shape == (0, PLAN.places)


def test_plan_for_samples_only_where_it_saves_something():
    assert plan_sampling("off", 0.005, 0.8) == SamplingPlan(6, 2)
    assert plan_sampling("flag", 0.005, 0.8) is None
    assert plan_sampling("drop", 0.005, 0.8) is None
    assert plan_sampling("off", LARGEST_HELDOUT, 0.8) == SamplingPlan(6, 2)
    assert plan_sampling("off", LARGEST_HELDOUT * 1.01, 0.8) is None
    assert plan_sampling("off", 0.005, 0.3) is None


@pytest.mark.parametrize("threshold", [0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97])
def test_plan_for_any_threshold_loses_few_rows_at_it(threshold):
    plan = plan_sampling("off", 0.005, threshold)
    assert 2 <= plan.hits <= plan.places // 2
    hits = np.random.default_rng(0).binomial(plan.places, threshold, 200_000)
    assert (hits < plan.hits).mean() <= 1.2 * LOSS
