"""What is said piece by piece, cut anywhere: thoughts and answer are the same."""

import pytest

from retune.chat.answer_stream import AnswerStream
from stages.contracts.tokens import AnswerForm

NOTHING = AnswerForm(gap="", opens="", closes="", ends="")
TAGS = AnswerForm(gap="<think>\n\n</think>", opens="<think>", closes="</think>", ends="")
AT_ONCE = AnswerForm(gap="", opens="", closes="</think>", ends="")
CHANNELS = AnswerForm(gap="|final|", opens="|analysis|", closes="|end||start|assistant|final|", ends="")


def read(form: AnswerForm, said: str, size: int) -> tuple[str, str]:
    """(thoughts, answer) of a text that comes in pieces of `size` characters; |name| are control tokens, which come whole."""
    stream, pieces = AnswerStream(form), []
    for place, part in enumerate(said.split("|")):
        if place % 2:
            pieces += stream.feed(f"|{part}|", control=True)
        else:
            for start in range(0, len(part), size):
                pieces += stream.feed(part[start : start + size], control=False)
    pieces += stream.finish()
    thoughts, answer = (
        "".join(piece.text for piece in pieces if piece.thought is thought) for thought in (True, False)
    )
    return thoughts, answer


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("form", "said", "thoughts", "answer"),
    [
        (NOTHING, "  Up.\n", "", "  Up.\n"),
        (TAGS, "<think>\n\n</think>\n\nUp. <b>", "", "Up. <b>"),
        (TAGS, "<think>\nIt is < 4 </thin\n</think>\n\nUp.", "It is < 4 </thin\n", "Up."),
        (TAGS, "<thin ice", "", "<thin ice"),
        (TAGS, "Up. <think>no</think>", "", "Up. <think>no</think>"),
        (TAGS, "<think>not done", "not done", ""),
        (AT_ONCE, "so it is\n</think>\n\nUp.", "so it is\n", "Up."),
        (CHANNELS, "|final|Up.", "", "Up."),
        (CHANNELS, "|analysis|so|end||start|assistant|final|Up.", "so", "Up."),
        (CHANNELS, "|other|Up.|final|", "", "Up."),
        (CHANNELS, "|analysis|so|end|then", "sothen", ""),
    ],
)
def test_thoughts_and_answer_are_told_apart_however_they_are_cut(
    form: AnswerForm, said: str, thoughts: str, answer: str, size: int
) -> None:
    assert read(form, said, size) == (thoughts, answer)


def test_answer_comes_as_it_is_said() -> None:
    stream = AnswerStream(TAGS)
    assert [*stream.feed("<thi", control=False)] == []
    assert [*stream.feed("nk>a", control=False)] == [("a", True)]
    assert [*stream.feed("b</", control=False)] == [("b", True)]
    assert [*stream.feed("think>\n\nU", control=False)] == [("U", False)]
    assert [*stream.feed("p", control=False)] == [("p", False)]
