"""data/exclusions.csv: who asked for which conversations to be left out of training for ever. No personal text: hashes only."""

import csv
import datetime as dt
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.contracts.messages import ID_LENGTH
from stages.core.errors import StageError
from stages.dataset_files.file_kinds import OLDER_EXCEL

COLUMNS = ["row_id_or_hash", "reason", "requested_by", "date"]
CONTENT_HASH_LENGTH = 64
HEX = "0123456789abcdef"
SEPARATORS = {",": "commas", ";": "semicolons"}


@dataclass(frozen=True)
class Exclusions:
    """Reasons by row id, and by the sha256 of a message's content."""

    by_row_id: Mapping[str, str]
    by_content: Mapping[str, str]
    lines: Mapping[str, int]
    """In which line of the file each of both stands."""

    def match(self, row_id: str, texts: Iterable[str]) -> list[str]:
        """Which of the ids and hashes a conversation with these messages' texts is left out for; empty: it is not."""
        found = [row_id] if row_id in self.by_row_id else []
        if self.by_content:
            digests = dict.fromkeys(hashlib.sha256(text.encode()).hexdigest() for text in texts)
            found += [digest for digest in digests if digest in self.by_content]
        return found

    def reason(self, key: str) -> str:
        """Why conversations with this id or hash are left out."""
        return self.by_row_id[key] if key in self.by_row_id else self.by_content[key]

    def find_unmatched(self, matched: Collection[str]) -> list[int]:
        """The lines whose id or hash is not among `matched`."""
        return sorted(line for key, line in self.lines.items() if key not in matched)


def read_exclusions(path: Path) -> Exclusions:
    """The exclusion list.

    Raises StageError with the line's number (not its text, which may be somebody's) where the list cannot be understood:
    a deletion request that is not carried out must not go unseen.
    """
    reasons: dict[str, str] = {}
    lines: dict[str, int] = {}
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            separator = separator_of(file.readline(), path.name)
            reader = csv.reader(file, delimiter=separator, strict=True)
            for fields in reader:
                number = reader.line_num + 1
                if not fields:
                    continue
                if problems := find_problems(fields, separator):
                    raise StageError(f"{path.name}, line {number}: {'; '.join(problems)}")
                key = fields[0].strip().lower()
                reasons.setdefault(key, fields[1].strip())
                lines.setdefault(key, number)
    except UnicodeDecodeError as error:
        raise StageError(f"{path.name} is not UTF-8; it {OLDER_EXCEL}") from error
    except csv.Error as error:
        raise StageError(
            f"{path.name}, line {number + 1} or below: a quote is not closed, or text stands behind a closing one"
        ) from error
    return Exclusions(
        {key: reason for key, reason in reasons.items() if len(key) == ID_LENGTH},
        {key: reason for key, reason in reasons.items() if len(key) == CONTENT_HASH_LENGTH},
        lines,
    )


def separator_of(header: str, name: str) -> str:
    """What stands between the fields: commas, or the semicolons that Excel writes where a comma is in numbers. Raises StageError."""
    for separator in SEPARATORS:
        if header.rstrip("\r\n").replace('"', "") == separator.join(COLUMNS):
            return separator
    raise StageError(
        f"{name}: the first line must be {','.join(COLUMNS)}: these four names in this order, with commas (or semicolons, as Excel may "
        "write them) between"
    )


def find_problems(fields: Sequence[str], separator: str) -> list[str]:
    """What is wrong with a line, field by field, in words that quote nothing of it; empty: nothing."""
    if len(fields) != len(COLUMNS):
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        names = ", ".join(COLUMNS)
        between = f"{SEPARATORS[separator]}, as in the first line (a text that holds one stands in quotes)"
        return [f"{count} instead of {len(COLUMNS)} ({names}); they are separated by {between}"]
    key, reason, _, day = (field.strip() for field in fields)
    problems = []
    if not is_hash(key.lower()):
        is_hex = all(character in HEX for character in key.lower())
        problems.append(
            f"row_id_or_hash must be a row id ({ID_LENGTH} hex characters) or the sha256 of a message's content "
            f"({CONTENT_HASH_LENGTH} hex characters); here are {len(key)} characters{'' if is_hex else ', not all of them hex'}"
        )
    if not reason:
        problems.append("reason is empty")
    if not is_day(day):
        problems.append("date must be a day of the calendar as YYYY-MM-DD, such as 2026-01-31")
    return problems


def is_hash(key: str) -> bool:
    """Whether `key` has the form of a row id or of a sha256."""
    return len(key) in (ID_LENGTH, CONTENT_HASH_LENGTH) and all(character in HEX for character in key)


def is_day(text: str) -> bool:
    """Whether this is a date as YYYY-MM-DD."""
    try:
        return bool(re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) and dt.date.fromisoformat(text))
    except ValueError:
        return False
