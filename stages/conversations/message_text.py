"""The text of a message: a string, or typed parts; and what is no text. Pure functions."""

from collections.abc import Mapping

from stages.conversations.row_notes import Note, note_unread
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
READ = {key: frozenset({"type", key}) for key in ("text", "value")}
"""By the key under which a part's text stands, the keys that are read of the part."""


def text_of(content: object, notes: list[Note] | None = None) -> str:
    """The text of a content: a string as it is, or parts `{"type": "text", "text" or "value": ...}` joined with nothing between.

    Raises Rejected for anything else. `notes`: where it is noted which keys of parts nothing reads.
    """
    if isinstance(content, str):
        return content
    if content is None:
        raise Rejected(NULL_CONTENT)
    if not isinstance(content, list) or not content:
        raise Rejected(CONTENT_NOT_TEXT)
    return "".join([text_of_part(part, notes) for part in content])


def text_of_part(part: object, notes: list[Note] | None = None) -> str:
    """The text of one typed part. Raises Rejected."""
    if not isinstance(part, dict):
        raise Rejected(CONTENT_NOT_TEXT)
    kind = part.get("type")
    if not isinstance(kind, str) or kind not in TEXT_PARTS:
        raise Rejected(MEDIA if isinstance(kind, str) and kind in MEDIA_PARTS else CONTENT_NOT_TEXT)
    key = "text" if part.get("text") is not None else "value"
    text = part.get(key)
    if not isinstance(text, str):
        raise Rejected(CONTENT_NOT_TEXT)
    if notes is not None:
        note_unread(part, READ[key], "messages[].content[]", notes)
    return text


def has_media_column(row: Mapping[str, object]) -> bool:
    """Whether a column for pictures, sounds or films holds something. An empty one says that this row has none."""
    return not MEDIA_COLUMNS.isdisjoint(row) and any(holds_media(row[name]) for name in MEDIA_COLUMNS & row.keys())


def holds_media(value: object) -> bool:
    """Whether a media column's value is there: not null, not empty, and no list of such."""
    values = value if isinstance(value, list) else [value]
    return any(each not in NOTHING for each in values)


def has_media_part(messages: object) -> bool:
    """Whether a part of some message is a picture, sound or film."""
    return isinstance(messages, list) and any(
        isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] in MEDIA_PARTS
        for message in messages
        if isinstance(message, dict)
        for content in message.values()
        if isinstance(content, list)
        for part in content
    )
