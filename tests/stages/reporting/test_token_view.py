import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from stages.contracts.tokens import NOT_TRAINED
from stages.reporting.token_view import control_ids, spread, text_between, token_runs, visible
from tests.token_files import TOKENIZER, ids_and_labels


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))


def test_runs_are_cut_where_training_begins_and_control_tokens_stand_alone(tokenizer: Tokenizer) -> None:
    ids, labels = ids_and_labels("where?", "there.")
    runs = token_runs(tokenizer, control_ids(tokenizer), ids, labels)
    assert [(run.text, run.control) for run in runs if run.trained] == [("there.", False), ("<|eot_id|>", True)]
    # two control tokens beside each other are two
    assert [run.text for run in runs[:2]] == ["<|begin_of_text|>", "<|start_header_id|>"]
    assert all(run.tokens == 1 for run in runs if run.control)
    assert sum(run.tokens for run in runs) == len(ids)


@pytest.mark.parametrize("text", ["naïve 🤖 日本語", "👨‍👩‍👧 e\u0301", "  two  blanks\n\n\ttab "])
def test_runs_join_the_tokens_of_one_character(tokenizer: Tokenizer, text: str) -> None:
    ids, labels = ids_and_labels("x", text)
    runs = token_runs(tokenizer, control_ids(tokenizer), ids, labels)
    assert "".join(run.text for run in runs if run.trained and not run.control) == text
    assert "".join(run.text for run in runs) == tokenizer.decode(ids, skip_special_tokens=False)


def test_runs_of_rows_and_labels_of_other_lengths_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="shorter"):
        token_runs(tokenizer, frozenset(), [1, 2], [NOT_TRAINED])


def test_text_between_keeps_a_blank_that_the_decoder_drops_at_a_start() -> None:
    vocabulary = {"\u2581in": 0, "\u2581the": 1, "\u2581attic": 2, "<unk>": 3}
    spelled = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    spelled.pre_tokenizer = pre_tokenizers.Metaspace()
    spelled.decoder = decoders.Metaspace()
    assert [text_between(spelled, [0, 1, 2], place, place + 1) for place in range(3)] == ["in", " the", " attic"]


def test_control_ids_are_special_and_piped_tokens_and_no_others(tokenizer: Tokenizer) -> None:
    tokenizer.add_tokens([AddedToken("<|tool|>", special=False), AddedToken("<b>", special=False)])
    controls = control_ids(tokenizer)
    assert tokenizer.token_to_id("<|tool|>") in controls
    assert tokenizer.token_to_id("<|eot_id|>") in controls
    assert tokenizer.token_to_id("<b>") not in controls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b[31m"),
        ("\x9b2J", r"\x9b2J"),
        ("a\rb\r\n\tc", "a\\rb\\r\n\tc"),
        ("\0\x07\x08\x7f", r"\0\x07\x08\x7f"),
        ("\u202eabc\u2066\u200b\ufeff\u2028", r"\u202eabc\u2066\u200b\ufeff\u2028"),
        ("\U000e0041", r"\U000e0041"),
        ("\ud800", r"\ud800"),
        ("naïve 🤖 日本語 👨‍👩‍👧 \\n", "naïve 🤖 日本語 👨‍👩‍👧 \\n"),
    ],
)
def test_visible_escapes_what_moves_the_cursor_or_cannot_be_seen(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_visible_escapes_marks_that_it_is_told() -> None:
    assert visible("a[b]^-", also="[]^-") == r"a\x5bb\x5d\x5e\x2d"


@pytest.mark.parametrize(
    ("rows", "count", "places"), [(10, 3, [0, 3, 6]), (2, 5, [0, 1]), (0, 5, []), (7, 7, [*range(7)])]
)
def test_spread_takes_rows_evenly(rows: int, count: int, places: list[int]) -> None:
    assert spread(rows, count) == places
