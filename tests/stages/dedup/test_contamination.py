import pickle

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.core.errors import StageError
from stages.dedup.contamination import LONGEST, NONE, find_contaminated, find_evaluation_files, index_evaluation_sets
from stages.dedup.shingles import normalize_text

LONG = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron"
SHORT = "What is the capital of France?"


def held_by(texts, index):
    return [number != NONE for number in find_contaminated(texts, index).tolist()]


def index_of(folder, *texts):
    path = folder / "evaluation.jsonl"
    path.write_bytes(b"".join(orjson.dumps({"question": text}) + b"\n" for text in texts))
    return index_evaluation_sets([(path, path.name)])


def test_contaminated_run_of_13_words_is_found_wherever_it_stands(tmp_path):
    index = index_of(tmp_path, LONG)
    thirteen = " ".join(LONG.split()[1:14])
    rows = [LONG, f"Before, {thirteen.upper()} -- and after", " ".join(LONG.split()[:12]), thirteen.replace("iota", "")]
    assert held_by(rows, index) == [True, True, False, False]


def test_contaminated_short_text_is_found_only_whole(tmp_path):
    index = index_of(tmp_path, SHORT)
    rows = ["Tell me: what is the capital of France", "What is the capital of Spain?", "the capital of France", SHORT]
    assert held_by(rows, index) == [True, False, False, True]


def test_contaminated_texts_of_few_words_and_of_numbers_are_not_looked_for(tmp_path):
    index = index_of(tmp_path, SHORT, "Paris", "The answer is B", "1 2 3 4 5 6 7 8")
    assert held_by(["Paris", "The answer is B", "1 2 3 4 5 6 7 8 9"], index) == [False, False, False]


@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.csv", "set.parquet"])
def test_evaluation_index_every_kind_of_file_is_read(tmp_path, name):
    path = tmp_path / name
    if name.endswith("l"):
        path.write_text(f'{{"q": "{SHORT}"}}\n')
    elif name.endswith("json"):
        path.write_text(f'[{{"q": "{SHORT}"}}]')
    elif name.endswith("csv"):
        path.write_text(f'q,a\n"{SHORT}",Paris\n')
    else:
        pq.write_table(pa.table({"q": [SHORT]}), path)
    assert held_by([SHORT, LONG], index_evaluation_sets([(path, name)])) == [True, False]


def test_evaluation_index_texts_deep_in_a_record_count_and_keys_do_not(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_bytes(orjson.dumps({LONG: [{"turns": [{"content": SHORT}, 7, None]}]}))
    assert held_by([SHORT, LONG], index_evaluation_sets([(path, path.name)])) == [True, False]


def test_evaluation_index_several_files_are_one_index_that_workers_can_get(tmp_path):
    files = []
    for name, text in (("one.jsonl", SHORT), ("two.jsonl", LONG)):
        (tmp_path / name).write_bytes(orjson.dumps({"q": text}))
        files.append((tmp_path / name, name))
    index = pickle.loads(pickle.dumps(index_evaluation_sets(files)))  # noqa: S301 - our own
    assert held_by([SHORT, LONG, "neither of the two is in this one"], index) == [True, True, False]


@pytest.mark.parametrize("content", [b'{"q": "Paris"}\n', b'{"q": "secret words that nobody may read"\n', b""])
def test_evaluation_index_file_that_says_nothing_is_an_error_without_its_text(tmp_path, content):
    path = tmp_path / "set.jsonl"
    path.write_bytes(content)
    with pytest.raises(StageError, match=r"set\.jsonl") as error:
        index_evaluation_sets([(path, path.name)])
    assert "secret" not in str(error.value)


def test_evaluation_index_row_that_is_not_json_is_an_error_with_its_place(tmp_path):
    (tmp_path / "set.jsonl").write_text(f'{{"q": "{SHORT}"}}\nnull\n{{"q": "secret words, and the end is missing"\n')
    with pytest.raises(StageError, match=r"^set.jsonl:3: the row is not JSON") as caught:
        index_evaluation_sets([(tmp_path / "set.jsonl", "set.jsonl")])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("set.jsonl", b'{"q": "a"}\n{"q": ["the smiley \\ud83d stands in words that are many and secret"]}\n'),
        ("set.csv", "q,a\nx,y\nwas die Stra\u00dfe so alles f\u00fcr Schilder hat,geheim\n".encode("cp1252")),
    ],
)
def test_evaluation_index_text_that_is_not_unicode_is_an_error_with_its_place(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=rf"^{name}:.*not Unicode.*save the file as UTF-8") as caught:
        index_evaluation_sets([(tmp_path / name, name)])
    assert "smiley" not in str(caught.value)
    assert "Schilder" not in str(caught.value)


def test_contaminated_no_row_is_none(tmp_path):
    assert held_by([], index_of(tmp_path, SHORT)) == []


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from("abc"), min_size=5, max_size=16).map(" ".join), min_size=1, max_size=4),
    st.lists(st.lists(st.sampled_from("abc"), max_size=30).map(" ".join), max_size=6),
)
def test_contaminated_any_texts_equal_a_search_for_words(tmp_path_factory, evaluation, rows):
    index = index_of(tmp_path_factory.mktemp("sets"), *evaluation)
    runs = [text.split() for text in evaluation]
    runs = [run[at : at + LONGEST] for run in runs for at in range(max(1, len(run) - LONGEST + 1))]
    expected = [any(f" {' '.join(run)} " in f" {normalize_text(row)} " for run in runs) for row in rows]
    assert held_by(rows, index) == expected


def test_contaminated_names_the_first_file_that_has_the_text(tmp_path):
    for name, texts in (("one.jsonl", [LONG]), ("two.jsonl", [SHORT, LONG])):
        (tmp_path / name).write_bytes(b"".join(orjson.dumps({"q": text}) + b"\n" for text in texts))
    index = index_evaluation_sets(find_evaluation_files(tmp_path, ["one.jsonl", "data/custom/two.jsonl"]))
    assert find_contaminated([SHORT, f"{SHORT} {LONG}", LONG, "no"], index).tolist() == [1, 0, 0, NONE]


@pytest.mark.parametrize("name", ["missing.jsonl", "data/custom/missing.jsonl", "../outside.jsonl"])
def test_evaluation_files_that_are_not_in_the_folder_are_an_error(tmp_path, name):
    (tmp_path / "custom").mkdir()
    (tmp_path / "outside.jsonl").touch()
    with pytest.raises(StageError, match="is not there: copy it into data/custom"):
        find_evaluation_files(tmp_path / "custom", [name])
