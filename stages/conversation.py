"""One record to one conversation in canonical form, with its id and its split; pure functions.

The id is the sha256 of the canonical JSON, [[role, content], ...], cut to 32 hex characters.
"""

import hashlib
import json

import orjson

from stages.contracts.messages import ID_LENGTH
from stages.dialects import Layout, Row
from stages.rules import Message, Rejected, check_turns, message


def conversation(
    record: bytes, layout: Layout | None, *, max_messages: int | None, max_chars: int | None
) -> tuple[list[Message], str | None]:
    """The record's messages in canonical form and the first rule that it breaks; ([], rule) where it has no canonical form."""
    found: list[Message] = []
    try:
        row = parsed(record)
        found = [message(role, content) for role, content in layout.pairs(row)] if layout else []
        check_unicode(found)
    except Rejected as rejected:
        return [], rejected.rule
    try:
        check_turns(found, max_messages=max_messages, max_chars=max_chars)
    except Rejected as rejected:
        return found, rejected.rule
    return found, None


def parsed(record: bytes) -> Row:
    """The record as an object. Raises Rejected.

    orjson is strict; what it refuses, the standard library reads again, since NaN and lone surrogates are common in columns
    that nobody trains on.
    """
    try:
        value = orjson.loads(record)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(record.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Rejected("invalid_unicode") from error
        except (ValueError, RecursionError) as error:
            raise Rejected("invalid_json") from error
    if not isinstance(value, dict):
        raise Rejected("not_an_object")
    return value


def check_unicode(found: list[Message]) -> None:
    """Raise Rejected if a content holds a lone surrogate, which no UTF-8 and no tokenizer can carry."""
    try:
        canonical_json(found)
    except (TypeError, UnicodeEncodeError) as error:
        raise Rejected("invalid_unicode") from error


def canonical_json(found: list[Message]) -> bytes:
    """[[role, content], ...] without spaces, as UTF-8: equal to json.dumps with compact separators and ensure_ascii off."""
    return orjson.dumps(found)


def id_of(canonical: bytes) -> str:
    """The row id: 32 hex characters of the sha256."""
    return hashlib.sha256(canonical).hexdigest()[:ID_LENGTH]


def split_of(row_id: str, heldout_fraction: float) -> str:
    """The split by the id's first 64 bits, read as a number between 0 and 1."""
    return "heldout" if int(row_id[:16], 16) < heldout_fraction * 2**64 else "train"
