"""What `retune inspect` found, in words."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retune.inspect.note_lines import reading_lines
from retune.terminal import describe_origin, heading, legend, paint_runs
from retune.use.changes import template_lines
from stages.chat.row_rules import TOO_LONG
from stages.contracts.messages import FATES
from stages.dataset_files.file_kinds import COMPRESSED, OLDER_EXCEL, SEPARATED, ending_of
from stages.reporting.token_view import Run, visible

KINDS = {
    ".jsonl": "JSON lines",
    ".json": "JSON",
    ".csv": "comma-separated values",
    ".tsv": "tab-separated values",
    ".parquet": "Parquet",
    ".arrow": "Arrow",
    ".feather": "Feather",
    ".xlsx": "Excel",
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
FILES, COLUMNS = 5, 30
"""Files and columns that are named."""
HEAD, TAIL = 500, 150
"""Characters that are shown of a long stretch of text: of its beginning, of its end."""
SHORT = {"rejected": "rejected", "repeated": "repeated", "near_heldout": "near"}
"""{what becomes of a row: the name of its field}."""
RUNS = 80
"""Stretches that are shown of one conversation."""


def lines(found: Mapping[str, Any], source: str | None, options: Sequence[str], *, colour: bool) -> Iterator[str]:
    """Every line of the answer: what was recognized, examples, counts, and what to do next.

    `options`: those of the command line that `retune use` takes, too.
    """
    if refuses_params(found):
        yield visible(f"`template` refuses its params, so the pipeline would stop there: {found['no_tokens']}")
        yield ""
    if found["untried"]:
        yield f"Without {' and '.join(found['untried'])}, which dvc.yaml has before `template`: rows may become others there."
        yield ""
    for number, one in enumerate(found["sources"]):
        yield from source_lines(one, found["rows_limit"], colour=colour)
        if number + 1 < len(found["sources"]):
            yield ""
    yield from example_lines(found, colour=colour)
    yield ""
    yield from count_lines(found, colour=colour)
    yield ""
    yield say_next_step(found, source, options)


def source_lines(one: Mapping[str, Any], limit: int | None, *, colour: bool) -> Iterator[str]:
    """What was recognized in one source."""
    at = f" at {one['revision'][:12]}" if one["revision"] else ""
    yield heading(f"{one['source']}{at}", colour=colour)
    names = list(one["files"])
    more = f" and {len(names) - FILES} more" if names[FILES:] else ""
    kinds = " and ".join(dict.fromkeys(describe_kind(name) for name in names))
    apart = f" (separated by {' and '.join(one['separators'])})" if one["separators"] not in ([], ["commas"]) else ""
    yield format_field("files", f"{', '.join(names[:FILES])}{more}: {kinds}{apart}")
    for name, said in one["sheets"].items():
        yield format_field("sheets", f"{name}: {said}")
    yield format_field("layout", one["layout"] or "none: no row is a JSON object")
    for place, (name, use) in enumerate(list(one["uses"].items())[:COLUMNS]):
        yield format_field("columns" if not place else "", f"{name}: {use}")
    if len(one["uses"]) > COLUMNS:
        yield format_field("", f"and {len(one['uses']) - COLUMNS} more")
    is_cut = limit is not None and one["rows_seen"] >= limit
    chosen = f", {one['rows']:,} of them taken" if one["rows"] != one["rows_seen"] else ""
    yield format_field("rows", (f"the first {limit:,} rows of it" if is_cut else f"{one['rows_seen']:,}") + chosen)


def describe_kind(name: str) -> str:
    """What a file is, by its ending."""
    ending = ending_of(name)
    compression = next((compressed for compressed in COMPRESSED if ending.endswith(compressed)), "")
    kind = KINDS.get(ending.removesuffix(compression), ending)
    return f"{kind}, packed with {COMPRESSIONS[compression]}" if compression else kind


def format_field(name: str, text: str) -> str:
    """A name and what is said of it."""
    return visible(f"  {name:<9}{text}")


def example_lines(found: Mapping[str, Any], *, colour: bool) -> Iterator[str]:
    """Rows as they will be trained."""
    rows = found["examples"]
    if not rows:
        return
    yield ""
    count = f"{len(rows)} rows" if len(rows) > 1 else "One row"
    by = "as they will be trained" if found["tokens"] else "as messages"
    yield heading(f"{count}, {by}", colour=colour)
    if found["no_tokens"] and not refuses_params(found):
        yield f"no tokens: {visible(found['no_tokens'])}"
    yield legend(colour=colour)
    for row in rows:
        size = f"  {row['tokens']:,} tokens, {row['labelled_tokens']:,} labelled" if "tokens" in row else ""
        yield ""
        yield heading(
            f"{row['row_id']}  {row['split']}  {describe_origin(row['origin'], several=len(found['sources']) > 1)}{size}",
            colour=colour,
        )
        yield paint_runs(shorten(row["runs"]), colour=colour).rstrip("\n")


def shorten(runs: Sequence[Run]) -> list[Run]:
    """Runs fit for a look: of a long text its beginning and end, of very many runs the first."""
    kept = []
    for run in runs[:RUNS]:
        left = len(run.text) - HEAD - TAIL
        text = run.text if left <= TAIL else f"{run.text[:HEAD]} [... {left:,} characters ...] {run.text[-TAIL:]}"
        kept.append(run._replace(text=text))
    if len(runs) > RUNS:
        kept.append(Run(f"\n[... {len(runs) - RUNS:,} more stretches ...]", trained=False, control=False, tokens=0))
    return kept


def count_lines(found: Mapping[str, Any], *, colour: bool) -> Iterator[str]:
    """What became of the rows."""
    rows = found["rows"]
    kept = rows["train"] + rows["heldout"]
    yield heading(
        f"{rows['raw']:,} {'row' if rows['raw'] == 1 else 'rows'}: {kept:,} kept ({rows['train']:,} to train, {rows['heldout']:,} held out), "
        f"{rows['rejected']:,} rejected, {count_others(rows)}{rows['excluded']:,} excluded",
        colour=colour,
    )
    several = len(found["sources"]) > 1
    yield from rule_lines(found, several=several)
    if kept and found["rows_limit"] is None:
        for place, said in enumerate(gate_words(found)):
            yield format_field("gate" if not place else "", said)
    yield from flag_lines(found, several=several)
    if found["seen"]["answers"]["heldout"]:
        yield format_field("held out", found["seen"]["says"])
    for about, said in reading_lines(found):
        yield format_field(about, said)
    if found["tokenizer"]:
        yield format_field("model", f"the tokenizer in {found['tokenizer']}, as fetch_model.source says")
    tokens = found["tokens"]
    if tokens:
        cut = f", {tokens['truncated']:,} rows cut" if tokens["truncated"] else ""
        yield format_field(
            "tokens",
            f"{tokens['tokens']:,}, {tokens['labelled_share']:.1%} labelled; a row has {tokens['p50']:,} (median), "
            f"{tokens['p90']:,} (90%), {tokens['max']:,} at most{cut}, of max_length {found['params']['max_length']:,}",
        )
    yield from template_lines(found["template"] or {})


def rule_lines(found: Mapping[str, Any], *, several: bool) -> Iterator[str]:
    """The rules that rows were set aside by, with places and what helps."""
    named = set()
    for rule in sorted(found["rules"], key=lambda rule: FATES.index(rule["fate"])):
        limit = f" ({found['params']['max_length']:,})" if rule["rule"] == TOO_LONG else ""
        yield format_field(
            SHORT.get(rule["fate"], "") if rule["fate"] not in named else "",
            f"{rule['rows']:,} {rule['rule']}: {rule['meaning']}{limit}",
        )
        named.add(rule["fate"])
        yield from place_lines(rule, several=several)
        if rule["rule"] == TOO_LONG and found["too_long"]:
            yield format_field("", f"    {describe_lengths(found['too_long'], found['params']['max_length'])}")
        yield from advise_on_encoding(rule)
        if rule["rule"] == "unknown_role":
            yield format_field("", f"    such as {', '.join(map(repr, found['unknown_roles']))}")
        if rule["rule"] == "contaminated":
            yield format_field(
                "", f"    {', '.join(f'{rows:,} by {name}' for name, rows in found['contaminated'].items())}"
            )


def count_others(rows: Mapping[str, int]) -> str:
    """Rows that were set aside for what other rows are, where there are some."""
    words = {"repeated": "repeated", "near_heldout": "near held-out ones"}
    return "".join(f"{rows[fate]:,} {word}, " for fate, word in words.items() if rows[fate])


def place_lines(one: Mapping[str, Any], *, several: bool) -> Iterator[str]:
    """Where the first rows of a rule or flag stand."""
    more = ", ..." if one["rows"] > len(one["origins"]) else ""
    yield format_field("", f"    at {join_places(one['origins'], several=several)}{more}")


def flag_lines(found: Mapping[str, Any], *, several: bool) -> Iterator[str]:
    """What is told of rows that no rule has set aside."""
    rules = {rule["rule"] for rule in found["rules"]}
    told = [flag for flag in found["flags"] if flag["flag"] not in rules]
    for place, flag in enumerate(told):
        yield format_field("flagged" if not place else "", f"{flag['rows']:,} {flag['flag']}: {flag['meaning']}")
        yield from place_lines(flag, several=several)


def gate_words(found: Mapping[str, Any]) -> Iterator[str]:
    """What the gate would refuse a model of these rows for: so much is known before it is trained."""
    gate = found["gate"]
    if gate["heldout"] < gate["min_heldout_rows"]:
        yield (
            f"will ask for {gate['min_heldout_rows']:,} held-out rows (audit.min_heldout_rows), here are {gate['heldout']:,}: "
            f"a larger standardize.heldout_fraction (now {found['params']['heldout_fraction']}), more rows, or a lower floor"
        )
    for share, what in (
        ("rejected_share", "of the rows are rejected, by `standardize` and `template` together"),
        ("repeated_share", "of the rows repeat others"),
        ("near_heldout_share", "of the rows nearly repeat a held-out one"),
        ("seen_answers", "of the held-out answers also stand in training"),
    ):
        most = gate[f"max_{share}"]
        if most is not None and gate[share] is not None and gate[share] > most:
            yield f"will refuse that {gate[share]:.1%} {what}: more than {most:.1%} (audit.max_{share})"


def join_places(origins: Sequence[Mapping[str, object]], *, several: bool) -> str:
    """Where rows came from, one after the other."""
    each = [describe_origin(origin, several=several) for origin in origins]
    return ("; " if any(", " in place for place in each) else ", ").join(each)


def advise_on_encoding(rule: Mapping[str, Any]) -> Iterator[str]:
    """Of rows of a .csv or .tsv that are not UTF-8: how to save it."""
    files = [origin["file"] for origin in rule["origins"]] if rule["rule"] == "invalid_unicode" else []
    if any(ending_of(file).startswith(SEPARATED) for file in files):
        yield format_field("", f"    the file {OLDER_EXCEL}")


def describe_lengths(lengths: Mapping[str, int], max_length: int) -> str:
    """How long the rows are that are too long, and which length would do."""
    wanted = lengths["keeps_95_percent"]
    does = (
        "keeps 95% of all rows or more as it is"
        if wanted <= max_length
        else f"would have to be {wanted:,} to keep 95% of all rows"
    )
    return f"they have {lengths['p50']:,} tokens (median), {lengths['p90']:,} (90%), {lengths['max']:,} at most; template.max_length {does}"


def refuses_params(found: Mapping[str, Any]) -> bool:
    """Whether there is a tokenizer, and `template` cannot use it with its params."""
    return bool(found["tokenizer"] and found["no_tokens"])


def say_next_step(found: Mapping[str, Any], source: str | None, options: Sequence[str]) -> str:
    """What to do now."""
    rows = found["rows"]
    bad_bytes = sum(rule["rows"] for rule in found["rules"] if rule["rule"] == "invalid_unicode")
    if bad_bytes * 2 > rows["raw"]:
        return "The file is not UTF-8: save it as UTF-8 (in Excel: CSV UTF-8), then look again."
    if refuses_params(found):
        return "Next: mend the params of the template section, as is said above: `template` refuses them."
    if not rows["train"] + rows["heldout"]:
        return (
            "No row is left: mend what the rules above name, or the standardize and template sections of params.yaml."
        )
    few = " No row is left to train on, since the few there are fell to the held-out ones." if not rows["train"] else ""
    return f"{say_command(found['sources'][0], source, options)}{few}"


def say_command(one: Mapping[str, Any], source: str | None, options: Sequence[str]) -> str:
    """What to call to train on this."""
    if source is None:
        use = f"{shlex.join(['retune', 'use', *options])}`, then `" if options else ""
        return f"Next: `{use}dvc repro` runs the pipeline on this."
    if source == "demo":
        return f"Next: `{shlex.join(['retune', 'use', 'demo', *options])}`."
    if one["revision"]:
        keys = ("source", "revision", "config", "split", "columns")
        values = ", ".join(f"{key}: {one[key] if one[key] is not None else 'null'}" for key in keys)
        return f"Next: in params.yaml, fetch_data.sources: [{{{values}, weight: null, max_rows: null}}]"
    return f"Next: `{shlex.join(['retune', 'use', '--data', source, *options])}`, then `dvc repro`."
