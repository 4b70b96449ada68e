"""Texts in which HTML was left: tags, or characters written as entities, outside of code; pure functions."""

import re
from html.entities import html5

import numpy as np

from stages.conversations.text_bytes import TextBytes, make_class

LESS, AND = ord("<"), ord("&")
AFTER_LESS = make_class(b"/!" + bytes(range(ord("A"), ord("Z") + 1)) + bytes(range(ord("a"), ord("z") + 1)))
AFTER_AND = make_class(b"#" + bytes(range(ord("A"), ord("Z") + 1)) + bytes(range(ord("a"), ord("z") + 1)))
ELEMENTS = (
    "article|aside|blockquote|body|br|button|center|dd|div|dl|dt|em|figure|font|footer|form|h[1-6]|head|header|hr|html|iframe|img|input|label|li|link|main|meta|nav"
    "|ol|option|pre|script|section|select|small|span|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|tr|ul"
)
"""Elements of web pages that mean nothing else between angle brackets."""
SHORT = "a|b|i|p|s|u|code"
"""Elements whose opening tag may be a type's parameter."""
HTML = re.compile(
    rf"</?(?:{ELEMENTS})(?:\s[^<>]{{0,2000}})?/?>|</(?:{SHORT})>|(?<!\w)<(?:{SHORT})(?:\s[^<>]{{0,2000}})?/?>|<!doctype html"
    r"|&(?:#\d{2,6}|#x[0-9a-f]{2,6}|[a-z][a-z0-9]{1,30});",
    re.IGNORECASE,
)
HTML_BYTES = re.compile(HTML.pattern.encode(), re.IGNORECASE)
CODE = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]+`|^(?: {4}|\t)[^\n]*", re.DOTALL | re.MULTILINE)
"""What Markdown shows as it is: fenced, between backticks, indented."""


def find_html(texts: TextBytes) -> set[int]:
    """Which texts hold HTML outside of code."""
    tags, entities = texts.find_byte(LESS), texts.find_byte(AND)
    data = texts.data
    places = np.sort(np.concatenate([tags[AFTER_LESS[data[tags + 1]]], entities[AFTER_AND[data[entities + 1]]]]))
    looked: set[int] = set()
    found: set[int] = set()
    for place, text, _, end in texts.walk(places):
        if text not in looked:
            match = HTML_BYTES.match(texts.whole, place, end)
            if match and is_html(match[0].decode(errors="replace")):
                looked.add(text)
                if any(is_html(one[0]) for one in HTML.finditer(CODE.sub(" ", texts.text(text)))):
                    found.add(text)
    return found


def is_html(found: str) -> bool:
    """Whether what looks like HTML is: a tag, or an entity by a name or number that HTML knows."""
    return not found.startswith("&") or found[1] == "#" or found[1:] in html5
