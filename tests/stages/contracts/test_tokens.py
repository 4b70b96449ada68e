import pyarrow as pa

from stages.contracts.tokens import SCHEMA, count_labelled


def rows(*labels: list[int]) -> pa.Table:
    ids = [[abs(label) % 10 for label in row] for row in labels]
    return pa.table([[f"row{number}" for number in range(len(labels))], ids, list(labels)], schema=SCHEMA)


def test_labelled_tokens_over_several_batches_counts_each_row() -> None:
    one, two = rows([-100, 5, 6], [-100], [7]), rows([1, -100, 2, 3])
    assert count_labelled(pa.concat_tables([one, two])).to_pylist() == [2, 0, 1, 3]
    assert count_labelled(rows([1, 1], [-100, 1], [1]).slice(1)).to_pylist() == [1, 1]
    assert count_labelled(rows([], [1, -100], [], [], [2], [])).to_pylist() == [0, 1, 0, 0, 1, 0]
    assert count_labelled(rows([])).to_pylist() == [0]
    assert count_labelled(one.slice(0, 0)).to_pylist() == []
