import pytest

from stages.report import HEIGHT, WIDTH, curves, number, percent, size, small


def test_curves_train_and_heldout_share_one_scale() -> None:
    log = [{"step": 5, "loss": 4.0, "eval_loss": None}, {"step": 10, "loss": 2.0, "eval_loss": 1.0}]
    drawn = curves(log)
    assert drawn["train"] == f"{WIDTH / 2:.1f},0.0 {WIDTH:.1f},{HEIGHT / 2:.1f}"
    assert drawn["heldout"] == f"{WIDTH:.1f},{HEIGHT * 0.75:.1f}"
    assert drawn["last_step"] == 10


def test_curves_of_nothing_are_empty() -> None:
    assert curves([])["train"] == ""


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2141664, "2.0 MiB"), (6 * 2**30, "6.00 GiB")]
)
def test_size_is_said_in_the_unit_that_fits(count: int, said: str) -> None:
    assert size(count) == said


def test_nothing_measured_is_a_dash_and_never_zero() -> None:
    assert {number(None), percent(None), small(None)} == {"\N{EN DASH}"}
    assert (number(0.0, 1), percent(0.0), number(12345), small(0.0000143)) == ("0.0", "0.0%", "12,345", "1.4e-05")
