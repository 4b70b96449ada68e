"""Texts in other languages than the asked ones, told by py3langid, whose model is in its wheel; loaded only where `languages` is asked for."""

import difflib
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

LANGUAGES = frozenset(
    """
    af am an ar as az ba be bg bn br bs ca cs cy da de dz el en eo es et eu fa fi fo fr fy ga gd gl gu ha he hi
    hr ht hu hy id ig is it ja jv ka kk km kn ko ku ky la lb lg ln lo lt lv mg mk ml mn mr ms mt my ne nl nn no
    oc om or pa pl ps pt qu ro ru rw sa se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur uz vi
    vo wa xh yo zh zu
    """.split()  # noqa: SIM905 - a list takes ten times as many lines
)
"""The ISO 639-1 codes that a text can be told to be in."""

NO_LANGUAGE = "zxx"
"""py3langid's name for text that is in none: code, numbers, addresses."""

LOOKED_AT = 500
"""Characters from the beginning and as many from the end: the question and the last answer. More cost time and tell no more."""

LETTERS = 20
"""Letters without which nothing can be told."""


def find_other_languages(texts: Sequence[str], languages: Collection[str]) -> list[bool]:
    """For each text whether it is in none of `languages`; a text that is too short to tell, or in no language (code), is not.

    Args:
        texts: what user and assistant say in one conversation, joined by line feeds.
        languages: codes out of LANGUAGES.
    """
    accepted = {*languages, NO_LANGUAGE}
    return [is_other(text, accepted) for text in texts]


def is_other(text: str, accepted: Collection[str]) -> bool:
    """Whether one language that is not accepted is likelier than all accepted ones together."""
    looked_at = text if len(text) <= 2 * LOOKED_AT else f"{text[:LOOKED_AT]}\n{text[-LOOKED_AT:]}"
    if sum(map(str.isalpha, looked_at)) < LETTERS:
        return False
    parts: list[tuple[str, float]] = load_identifier().rank(looked_at)
    others = [part for language, part in parts if language not in accepted]
    return max(others, default=0.0) > sum(part for language, part in parts if language in accepted)


@cache
def load_identifier() -> Any:  # noqa: ANN401 - py3langid ships no types
    """py3langid's identifier for LANGUAGES: 0.4 s and 300 MB at its first call in a process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.set_languages([*LANGUAGES, NO_LANGUAGE])
    return found


def suggest_language(code: str) -> str:
    """What to write in place of an unknown code, for the end of an error."""
    near = [code[:2].lower()] if code[:2].lower() in LANGUAGES else difflib.get_close_matches(code, LANGUAGES, 3, 0.5)
    return f"; did you mean {' or '.join(sorted(near))}?" if near else ", such as en, de or zh"
