import pytest

from stages.conversations.row_rules import ANOTHER_ROLE_TRAINED, ANSWER_TRAINED_IN_PART, WEIGHT_NOT_0_OR_1, Rejected
from stages.conversations.weights import check_other_role, is_trained, read_detail

TRAINED, LEFT_OUT = True, False


def span(begin: object, end: object, train: object) -> dict[str, object]:
    return {"begin_offset": begin, "end_offset": end, "train": train}


@pytest.mark.parametrize("key", ["weight", "loss_weight", "train", "loss"])
def test_every_key_for_weights_is_obeyed(key: str) -> None:
    assert is_trained({key: None}, 5)
    for value in (0, 0.0, False):
        assert not is_trained({key: value}, 5)
    for value in (1, 1.0, True):
        assert is_trained({key: value}, 5)


@pytest.mark.parametrize("train", [True, False])
def test_detail_of_a_whole_answer_is_obeyed(train: bool) -> None:
    for detail in ([span(0, 4, train)], [span(0, 9, train)], [span(3, 4, train), span(0, 2, train)]):
        assert is_trained({"train_detail": detail}, 5) is train
        assert is_trained({"train_detail": detail, "loss": train}, 5) is train
    assert is_trained({"train_detail": []}, 5)


@pytest.mark.parametrize(
    "detail",
    [
        *([span(0, 3, TRAINED)], [span(1, 4, TRAINED)], [span(0, 1, TRAINED), span(3, 4, TRAINED)], [span(0, 1, TRAINED), span(2, 4, LEFT_OUT)]),
        *([], 3, "x", {}, [3], [{}], [span(None, 4, TRAINED)], [span(0, 4.0, TRAINED)], [span(TRAINED, 4, TRAINED)], [span(0, 4, 1)]),
    ],
)  # fmt: skip
def test_detail_of_a_part_is_named(detail: object) -> None:
    with pytest.raises(Rejected) as caught:
        read_detail(detail, 5)
    assert caught.value.rule == ANSWER_TRAINED_IN_PART


@pytest.mark.parametrize(
    "beside", [{"weight": 0.5}, {"loss": "0"}, {"weight": 1, "loss": 0}, {"train": False, "train_detail": [span(0, 4, TRAINED)]}]
)  # fmt: skip
def test_weights_that_are_none_or_disagree_are_named(beside: dict[str, object]) -> None:
    with pytest.raises(Rejected) as caught:
        is_trained(beside, 5)
    assert caught.value.rule == WEIGHT_NOT_0_OR_1


def test_other_roles_may_say_that_they_are_not_trained_and_not_that_they_are() -> None:
    for beside in (
        {"train": False},
        {"loss": 0},
        {"weight": 1},
        {"train_detail": [span(0, 4, LEFT_OUT)]},
        {"loss": None},
    ):
        check_other_role(beside)
    for beside in ({"train": True}, {"loss": 1}, {"train_detail": [span(0, 4, TRAINED)]}):
        with pytest.raises(Rejected) as caught:
            check_other_role(beside)
        assert caught.value.rule == ANOTHER_ROLE_TRAINED
