import pyarrow as pa
import pytest

from stages.contracts.messages import SCHEMA as KEPT
from stages.conversations.canonical import Conversation
from stages.conversations.seen_share import QUESTION_CHARACTERS, SCHEMA, SeenShare, hash_answers

Row = tuple[str, str, str]
"""(split, question, answer)."""


def watch(*batches: list[Row]) -> SeenShare:
    seen = SeenShare()
    given = []
    for batch in batches:
        talks = [[("user", question), ("assistant", answer)] for _, question, answer in batch]
        columns = [
            {
                "row_id": "0" * 32,
                "row": 0,
                "source": 0,
                "file": "f",
                "line": 1,
                "split": split,
                "messages": [{"role": role, "content": text, "train": True} for role, text in talk],
                "answers": hashes,
            }
            for (split, _, _), talk, hashes in zip(batch, talks, hash_talks(talks), strict=True)
        ]
        given.append(pa.RecordBatch.from_pylist(columns, SCHEMA))
    passed = list(seen.watch(given))
    assert [batch.num_rows for batch in passed] == [len(batch) for batch in batches]
    assert all(batch.schema.equals(KEPT) for batch in passed)
    return seen


def hash_talks(talks: list[list[tuple[str, str]]]) -> list[list[int]]:
    return list(hash_answers([Conversation("", talk, None, None, (), None) for talk in talks]).to_pylist())


def test_shares_are_of_held_out_answers_and_words_that_training_has() -> None:
    train = [
        ("train", "where is Ann?", "In Oslo."),
        ("train", "where is Bo?", "In Rome."),
        ("train", "who?", "In Rome."),
    ]
    held = [("heldout", "Where is Cleo", "in  OSLO"), ("heldout", "is Bo here", "At home.")]
    found = watch(train[:1], [*held, *train[1:]]).summarize(None)
    assert found["answers"] == {"heldout": 2, "seen": 1, "share": 0.5, "different_in_train": 2}
    # where, is, bo of where, is, cleo, bo, here
    assert found["question_words"] == {"heldout": 5, "seen": 3, "share": 0.6, "all_read": True}
    assert found["says"].startswith(
        "1 of 2 held-out answers (50.0%) also stand in training, and 60.0% of the different words of held-out questions"
    )


def test_longer_answers_are_the_same_letter_by_letter_alone() -> None:
    long = "It is so, " * 30
    held = [("heldout", "q", long), ("heldout", "r", long.upper())]
    assert watch([("train", "q", long), *held]).summarize(None)["answers"]["seen"] == 1


def test_all_seen_says_memory_and_how_to_measure_otherwise_unless_answers_are_labels() -> None:
    facts = [
        (split, f"{split} wording of {number}", f"fact {number}")
        for number in range(30)
        for split in ("train", "heldout")
    ]
    assert "held-out is 100 % seen: these figures measure memory" in watch(facts).summarize(None)["says"]
    assert "(standardize.group_by: answer" in watch(facts).summarize(None)["says"]
    assert "(standardize.group_by" not in watch(facts).summarize("answer")["says"]
    labels = [
        ("heldout" if number % 10 == 0 else "train", f"text {number}", "yes" if number % 3 else "no")
        for number in range(100)
    ]
    said = watch(labels).summarize(None)["says"]
    assert "memory" not in said
    assert "they are labels: 2 different answers, each of 45 training rows in the mean" in said


def test_nothing_held_out_says_nothing() -> None:
    found = watch([("train", "q", "a")]).summarize(None)
    assert (found["says"], found["answers"]["share"], found["question_words"]["share"]) == ("", None, None)
    assert SeenShare().summarize(None)["says"] == ""


def test_words_past_the_bound_make_the_share_a_least_one() -> None:
    long = "so " * (QUESTION_CHARACTERS // 3)
    found = watch([("train", long, "a")], [("train", "later", "b"), ("heldout", "so later", "c")]).summarize(None)
    assert found["question_words"] == {"heldout": 2, "seen": 1, "share": 0.5, "all_read": False}
    assert "50.0% or more of the different words" in found["says"]


@pytest.mark.parametrize(("common", "found"), [(3, [0, 2, 4]), (2, [])])
def test_common_answers_are_those_of_enough_rows(common: int, found: list[int]) -> None:
    rows = [
        ("train", f"q {number}", "Yes." if number in range(0, 2 * common, 2) else f"a {number}")
        for number in range(200)
    ]
    seen = watch(rows[:3], rows[3:])
    assert seen.find_common_answers(0.01, 3).tolist() == found
    assert seen.find_common_answers(0.02, 3).tolist() == []


def test_what_is_remembered_holds_no_batch_in_memory() -> None:
    """Batches come from workers as one block of memory each: a view of one column would keep the texts, too."""
    seen = watch([("train", "q", "a")], [("heldout", "q", "b")])
    assert all(part.base is None for part in (*seen.answers, *seen.rows, *seen.heldout))
