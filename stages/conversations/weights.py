"""What a dataset says of which messages are trained: keys beside a message, obeyed for whole answers. Pure functions."""

from collections.abc import Mapping

from stages.conversations.row_rules import (
    ANOTHER_ROLE_TRAINED,
    ANSWER_TRAINED_IN_PART,
    WEIGHT_NOT_0_OR_1,
    Rejected,
)

LOSS_WEIGHTS = ("weight", "loss_weight")
SWITCHES = ("train", "loss")
WEIGHTS = (*LOSS_WEIGHTS, *SWITCHES)
"""Keys with 0 or 1, false or true."""

DETAIL = "train_detail"
"""A list of {begin_offset, end_offset, train}: places in the content, from 0, the end with them."""


def is_trained(beside: Mapping[str, object], length: int) -> bool:
    """Whether an answer bears loss, by the weights beside it.

    Args:
        beside: the message.
        length: characters of its content as it stands there.

    Raises:
        Rejected: a weight that is neither 0 nor 1, weights that disagree, or an answer of which a part is trained.
    """
    weights = [weight for key in WEIGHTS if (weight := beside.get(key)) is not None]
    if not all(isinstance(weight, int | float) and weight in (0, 1) and weight == weights[0] for weight in weights):
        raise Rejected(WEIGHT_NOT_0_OR_1)
    detail = beside.get(DETAIL)
    if detail is not None and detail != []:
        whole = read_detail(detail, length)
        if weights and bool(weights[0]) != whole:
            raise Rejected(WEIGHT_NOT_0_OR_1)
        return whole
    return not weights or bool(weights[0])


def read_detail(detail: object, length: int) -> bool:
    """Whether a `train_detail` trains the whole of a content. Raises Rejected where it speaks of a part alone."""
    spans = [read_span(each) for each in detail] if isinstance(detail, list) else []
    if not spans or len({train for _, _, train in spans}) > 1:
        raise Rejected(ANSWER_TRAINED_IN_PART)
    covered = 0
    for begin, end, _ in sorted(spans):
        if begin > covered:
            break
        covered = max(covered, end + 1)
    if covered < length:
        raise Rejected(ANSWER_TRAINED_IN_PART)
    return spans[0][2]


def read_span(value: object) -> tuple[int, int, bool]:
    """(begin, end, train) of one entry. Raises Rejected."""
    if not isinstance(value, dict):
        raise Rejected(ANSWER_TRAINED_IN_PART)
    begin, end, train = (value.get(key) for key in ("begin_offset", "end_offset", "train"))
    if type(begin) is not int or type(end) is not int or not isinstance(train, bool):
        raise Rejected(ANSWER_TRAINED_IN_PART)
    return begin, end, train


def check_other_role(beside: Mapping[str, object]) -> None:
    """Raise Rejected where a message that is no answer asks to be trained: that cannot be obeyed."""
    detail = beside.get(DETAIL)
    spans = detail if isinstance(detail, list) else []
    if any(isinstance(each, dict) and each.get("train") for each in spans) or any(map(beside.get, SWITCHES)):
        raise Rejected(ANOTHER_ROLE_TRAINED)
