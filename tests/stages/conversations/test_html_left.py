import pyarrow as pa
import pytest

from stages.conversations.html_left import find_html
from stages.conversations.text_bytes import view_bytes

LEFT = [
    "<p>Hello</p>",
    "one<br>two",
    "a &amp; b",
    "it&#39;s",
    "<div class='x'>y",
    "<A HREF='x'>here</A>",
    "&nbsp;",
    "<!DOCTYPE html>",
    "\u00fc <li>x",
    "`code` and <b>bold</b>",
    "text</span>",
]
NOT_LEFT = [
    "a < b and c > d",
    "List<String> x",
    "Map<a>",
    "AT&T; R&D",
    "```html\n<p>x</p>\n```",
    "use `<br>` here",
    "    <div>\n",
    "~~~\n<p>\n~~~",
    "```\n<p> never closed",
    "<think>hm</think>",
    "<tool_call>{}</tool_call>",
    "<|im_start|>",
    "x &unknownname; y",
    "if a<p and b>c",
    "<",
    "&",
    "",
]


def test_html_is_found_outside_of_code_and_nowhere_else() -> None:
    assert [text for place, text in enumerate(LEFT) if place not in find_html(view_bytes(pa.array(LEFT)))] == []
    assert [NOT_LEFT[place] for place in find_html(view_bytes(pa.array(NOT_LEFT)))] == []


@pytest.mark.parametrize("noise", ["<x " * 20_000, "<a " * 20_000, "&a" * 20_000, "`" * 20_000 + "<p>"])
def test_text_full_of_signs_is_looked_through_in_time(noise: str) -> None:
    find_html(view_bytes(pa.array([noise])))
