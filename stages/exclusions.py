"""data/exclusions.csv: who asked for which conversations to be left out of training for ever. No personal text: hashes only."""

import csv
import datetime as dt
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.contracts.messages import ID_LENGTH
from stages.errors import StageError

COLUMNS = ["row_id_or_hash", "reason", "requested_by", "date"]
CONTENT_HASH_LENGTH = 64


@dataclass(frozen=True)
class Exclusions:
    """Reasons by row id, and by the sha256 of a message's content."""

    by_row_id: Mapping[str, str]
    by_content: Mapping[str, str]
    lines: Mapping[str, int]
    """In which line of the file each of both stands."""

    def matched(self, row_id: str, contents: Iterable[str]) -> list[str]:
        """Which of the ids and hashes a conversation is left out for; empty: it is not."""
        found = [row_id] if row_id in self.by_row_id else []
        if self.by_content:
            digests = dict.fromkeys(hashlib.sha256(content.encode()).hexdigest() for content in contents)
            found += [digest for digest in digests if digest in self.by_content]
        return found

    def reason(self, key: str) -> str:
        """Why conversations with this id or hash are left out."""
        return self.by_row_id[key] if key in self.by_row_id else self.by_content[key]

    def unmatched(self, matched: Collection[str]) -> list[int]:
        """The lines whose id or hash is not among `matched`."""
        return sorted(line for key, line in self.lines.items() if key not in matched)


def read_exclusions(path: Path) -> Exclusions:
    """The exclusion list.

    Raises StageError with the line's number (not its text, which may be somebody's) where the list cannot be understood:
    a deletion request that is not carried out must not go unseen.
    """
    reasons: dict[str, str] = {}
    lines: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            if next(reader, None) != COLUMNS:
                raise StageError(f"{path.name}: the first line must be {','.join(COLUMNS)}")
            for fields in reader:
                if not fields:
                    continue
                key = fields[0].strip().lower()
                if (
                    len(fields) != len(COLUMNS)
                    or not is_hash(key)
                    or not fields[1].strip()
                    or not is_day(fields[3].strip())
                ):
                    raise StageError(
                        f"{path.name}, line {reader.line_num}: must be a row id ({ID_LENGTH} hex characters) or the sha256 of a "
                        f"message's content ({CONTENT_HASH_LENGTH} hex characters), a reason, who asked, and the date as YYYY-MM-DD"
                    )
                reasons.setdefault(key, fields[1].strip())
                lines.setdefault(key, reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise StageError(f"{path.name} is not a UTF-8 .csv file ({type(error).__name__})") from error
    return Exclusions(
        {key: reason for key, reason in reasons.items() if len(key) == ID_LENGTH},
        {key: reason for key, reason in reasons.items() if len(key) == CONTENT_HASH_LENGTH},
        lines,
    )


def is_hash(key: str) -> bool:
    """Whether `key` has the form of a row id or of a sha256."""
    return len(key) in (ID_LENGTH, CONTENT_HASH_LENGTH) and all(character in "0123456789abcdef" for character in key)


def is_day(text: str) -> bool:
    """Whether this is a date as YYYY-MM-DD."""
    try:
        return bool(re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) and dt.date.fromisoformat(text))
    except ValueError:
        return False
