"""The text of a message: a string, or typed parts; and what is no text. Pure functions."""

from collections.abc import Mapping

from stages.conversations.row_rules import CONTENT_NOT_TEXT, MEDIA, NULL_CONTENT, Rejected

MEDIA_COLUMNS = frozenset({"image", "images", "audio", "audios", "video", "videos"})
MEDIA_PARTS = frozenset(
    {
        "image",
        "image_url",
        "input_image",
        "audio",
        "audio_url",
        "input_audio",
        "video",
        "video_url",
        "file",
        "input_file",
    }
)
"""Types of parts that are no text."""

NOTHING: tuple[object, ...] = (None, "", "[]", [], {})

TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


def text_of(content: object) -> str:
    """The text of a content: a string as it is, or parts `{"type": "text", "text" or "value": ...}` joined with nothing between.

    Raises Rejected for anything else.
    """
    if isinstance(content, str):
        return content
    if content is None:
        raise Rejected(NULL_CONTENT)
    if not isinstance(content, list) or not content:
        raise Rejected(CONTENT_NOT_TEXT)
    return "".join([text_of_part(part) for part in content])


def text_of_part(part: object) -> str:
    """The text of one typed part. Raises Rejected."""
    if not isinstance(part, dict):
        raise Rejected(CONTENT_NOT_TEXT)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise Rejected(MEDIA if isinstance(kind, str) and kind in MEDIA_PARTS else CONTENT_NOT_TEXT)
    text = part["text"] if part.get("text") is not None else part.get("value")
    if not isinstance(text, str):
        raise Rejected(CONTENT_NOT_TEXT)
    return text


def has_media_column(row: Mapping[str, object]) -> bool:
    """Whether a column for pictures, sounds or films holds something. An empty one says that this row has none."""
    return not MEDIA_COLUMNS.isdisjoint(row) and any(is_something(row[name]) for name in MEDIA_COLUMNS & row.keys())


def is_something(value: object) -> bool:
    """Whether a media column's value is there: not null, not empty, and no list of such."""
    values = value if isinstance(value, list) else [value]
    return any(each not in NOTHING for each in values)


def has_media_part(messages: object) -> bool:
    """Whether a part of some message is a picture, sound or film."""
    return isinstance(messages, list) and any(
        isinstance(part, dict) and part.get("type") in MEDIA_PARTS
        for message in messages
        if isinstance(message, dict)
        for content in message.values()
        if isinstance(content, list)
        for part in content
    )
