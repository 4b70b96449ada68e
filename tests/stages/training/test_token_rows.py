import pyarrow as pa
import pytest

from stages.contracts.tokens import SCHEMA
from stages.core.errors import StageError
from stages.training.token_rows import TokenRows, check_rows, name_rows

CONFIG: dict[str, object] = {"max_position_embeddings": 8}


def rows(*labels: list[int], ids: list[list[int]] | None = None) -> pa.Table:
    ids = ids or [[abs(label) % 10 for label in row] for row in labels]
    return pa.table([[f"row{number}" for number in range(len(labels))], ids, list(labels)], schema=SCHEMA)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows(), "no training rows"),
        (rows([-100, 3], [-100, -100]), "row row1 of data/tokens have no labelled token"),
        (rows([1] * 9, [1]), "row row0 of data/tokens are longer than the 8"),
        (rows([1, 2], ids=[[1, 64]]), "token id 64"),
        (rows([1, 2], ids=[[1]]), "fewer or more labels"),
    ],
)
def test_rows_that_cannot_be_trained_on_are_refused_by_id(table: pa.Table, said: str) -> None:
    with pytest.raises(StageError, match=said):
        check_rows(table, CONFIG, 64, None)


def test_rows_that_fit_pass() -> None:
    check_rows(rows([-100, 3], [1] * 8), CONFIG, 64, 8)


def test_names_of_many_rows_are_cut() -> None:
    assert name_rows([str(number) for number in range(10)]) == "rows 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


def test_rows_longer_than_a_pack_are_refused_by_id() -> None:
    with pytest.raises(
        StageError, match=r"row row1 of data/tokens are longer than a pack .*7, the longest row has 8 tokens"
    ):
        check_rows(rows([-100, 3], [1] * 8), CONFIG, 64, 7)


def test_row_is_read_by_number_over_batches_and_slices() -> None:
    one, two = rows([-100, 5, 6], [-100], [7]), rows([1, -100, 2, 3], [4])
    data = TokenRows(pa.concat_tables([one.slice(1), two]))
    assert [data.labels[row].tolist() for row in range(len(data))] == [[-100], [7], [1, -100, 2, 3], [4]]
    assert [data.ids[row].tolist() for row in range(len(data))] == [[0], [7], [1, 0, 2, 3], [4]]
    assert (data.lengths, data.labelled) == ([1, 1, 4, 1], [0, 1, 3, 1])
