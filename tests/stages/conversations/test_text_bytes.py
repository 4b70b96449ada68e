import pyarrow as pa

from stages.conversations.text_bytes import view_bytes


def test_bytes_of_a_part_of_an_array_are_its_own_and_null_is_nothing() -> None:
    texts = pa.array(["left 1", "\u00fc@2", None, "", "x@3y", "right 4"]).slice(1, 4)
    found = view_bytes(texts)
    assert [found.text(index) for index in range(4)] == ["\u00fc@2", "", "", "x@3y"]
    assert [found.whole[place : place + 1] for place in found.find_digits()] == [b"2", b"3"]
    assert [place[1:] for place in found.walk(found.find_byte(ord("@")))] == [(0, 0, 4), (3, 4, 8)]


def test_no_texts_have_no_bytes() -> None:
    for texts in (pa.array([], pa.string()), pa.array([None, None], pa.string()), pa.array(["", ""])):
        found = view_bytes(texts)
        assert (found.whole, len(found.find_byte(64)), len(found.find_digits())) == (b"", 0, 0)
        assert len(found.ends) == len(texts) + 1
