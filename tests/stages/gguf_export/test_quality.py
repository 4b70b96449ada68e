import numpy as np
import pytest

from stages.gguf_export.quality import mean_error


def test_mean_error_of_rows_of_one_length_is_that_of_their_means() -> None:
    means = np.array([0.01, 0.03, 0.02, 0.08])
    found = mean_error([(10, 10 * mean) for mean in means])
    assert found == pytest.approx(means.std(ddof=1) / np.sqrt(len(means)), rel=1e-5)


def test_mean_error_is_how_far_means_of_other_rows_are_spread() -> None:
    chance = np.random.default_rng(1)
    sizes = chance.integers(5, 60, size=(2_000, 32))
    sums = sizes * chance.gamma(2.0, 0.01, size=sizes.shape)  # the tokens of a row have the row's own mean
    means = sums.sum(axis=1) / sizes.sum(axis=1)
    errors = [
        mean_error(list(zip(*draw, strict=True)))
        for draw in zip(sizes[:200].tolist(), sums[:200].tolist(), strict=True)
    ]
    assert np.mean(errors) == pytest.approx(means.std(), rel=0.1)  # type: ignore[arg-type]


def test_mean_error_of_a_single_row_is_not_known() -> None:
    assert mean_error([(10, 0.2)]) is None
