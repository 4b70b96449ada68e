"""The kinds of file that a dataset may come in, by the endings of their names."""

TEXT = (".jsonl", ".json", ".csv", ".tsv")
COLUMNAR = (".parquet", ".arrow", ".feather")
EXCEL = (".xlsx",)
COMPRESSED = (".gz", ".zst")

SEPARATED = (".csv", ".tsv")
BY_LINE = (".jsonl", *SEPARATED, *EXCEL)
"""Compressed or not: the place of a row is a line, of a sheet its row. Of the others it is the row's number."""

ENDINGS = (*TEXT, *COLUMNAR, *EXCEL, *(text + compressed for text in TEXT for compressed in COMPRESSED))
OLDER_EXCEL = "looks like Windows-1252 (Excel's older CSV): save it as CSV UTF-8"
"""Of a .csv or .tsv with bytes that are not UTF-8."""
KNOWN = f"{', '.join(TEXT)} (each also {' or '.join(COMPRESSED)}), {', '.join((*COLUMNAR, *EXCEL))}"
"""The endings as messages list them."""

OTHER_KINDS = {
    b"PAR1": "Parquet",
    b"PARE": "an encrypted Parquet file",
    b"ARROW1\0\0": "an Arrow file",
    b"\xff\xff\xff\xff": "an Arrow stream",
    b"FEA1": "Feather of the first version",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"PK\x03\x04": "a zip archive (or .xlsx)",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF",
    b"GGUF": "a GGUF model",
    b"SQLite format 3": "an SQLite database",
    b"version https://git-lfs": "a Git LFS pointer (run `git lfs pull` where it comes from)",
}
"""How files of other kinds begin."""


def ending_of(name: str) -> str:
    """The known ending of a file's name, the compression with it (`.jsonl.gz`); empty where there is none."""
    return max((ending for ending in ENDINGS if name.lower().endswith(ending)), key=len, default="")


def place_in(name: str, place: int) -> str:
    """Where a row stands, in words: `a.jsonl:40` for the line of a file of lines, `a.json, record 40` for one of another kind."""
    return f"{name}:{place}" if ending_of(name).startswith(BY_LINE) else f"{name}, record {place}"


def other_kind(beginning: bytes) -> str | None:
    """What a file is that begins like this, if it is a kind with a mark; None for text."""
    for magic, kind in OTHER_KINDS.items():
        if beginning.startswith(magic):
            return kind
    whole = beginning[: len(beginning) // 2 * 2]
    if len(whole) >= 4 and any(whole[::2]) != any(whole[1::2]):  # noqa: PLR2004 - two letters of UTF-16
        return "UTF-16 text"
    return None
