"""What the data stages made of a source, as facts: what `retune inspect` prints, and its answer for programs."""

from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from retune.inspect.column_uses import find_column_uses
from retune.inspect.trial_run import TrialRun
from retune.terminal import origin_of
from stages.arrow.tables import read_parquet, read_parquet_batches
from stages.chat import row_rules as template_rules
from stages.contracts import messages as message_files
from stages.contracts import raw as raw_files
from stages.contracts import tokens as token_files
from stages.contracts.tokens import NOT_TRAINED
from stages.conversations import row_rules as standardize_rules
from stages.conversations.canonical import canonical_form, parse_record
from stages.conversations.dialect_detection import parse_objects
from stages.conversations.dialects import Dialect
from stages.conversations.roles import role_of
from stages.conversations.row_rules import CHANGES
from stages.core.files import read_json
from stages.reporting.token_view import Run, control_ids, spread, token_runs
from stages.standardize import detect_dialects, read_records

ROWS_TO_TRY = 200
"""Rows of each source that the uses of its columns are found by."""
NOTES = ("ignored", "handed_on", *CHANGES)
"""What data/messages' summary tells of keys that nothing reads, and of what was changed in reading."""
ROLES, ROLE = 3, 20
"""Unknown roles that are told, and characters of each."""
SET_ASIDE = ("rejected", "repeated", "near_heldout")
"""What becomes of a row that a rule sets aside."""
ORIGINS = 3
"""Origins that are told of each rule."""


def collect_findings(trial: TrialRun, examples: int, values: dict[str, Any]) -> dict[str, Any]:
    """Sources, counts, rules, tools, tokens and examples.

    Args:
        trial: where the stages have written.
        examples: rows to show.
        values: params.yaml.
    """
    sources = read_json(trial.raw / raw_files.SOURCE)["sources"]
    summary = read_json(trial.messages / message_files.SUMMARY)
    names = [source["source"] for source in sources]
    dialects = detect_dialects(trial.raw / raw_files.ROWS, sources, values["standardize"]["trees"])
    uses = find_uses(trial, dialects)
    rules = list_rejected(trial, names)
    shown = (
        read_token_examples(trial, examples, names)
        if trial.tokens
        else read_message_examples(trial, examples, names, values["template"]["train_on"])
    )
    return {
        "sources": [{**source, **use} for source, use in zip(sources, uses, strict=True)],
        "rows": {
            "raw": pq.read_metadata(trial.raw / raw_files.ROWS).num_rows,
            **count_kept_rows(trial),
            **{fate: sum(rule["rows"] for rule in rules if rule["fate"] == fate) for fate in SET_ASIDE},
            "excluded": pq.read_metadata(trial.messages / message_files.EXCLUDED).num_rows,
        },
        "rules": rules,
        "params": {
            "heldout_fraction": values["standardize"]["heldout_fraction"],
            "max_length": values["template"]["max_length"],
        },
        "gate": foretell_gate(summary, rules, count_kept_rows(trial)["heldout"], values["audit"]),
        "flags": list_flags(summary),
        "seen": summary["seen"],
        "unknown_roles": find_unknown_roles(trial, dialects),
        "contaminated": summary["contaminated"],
        "notes": {name: summary[name] for name in NOTES},
        "too_long": measure_too_long(trial),
        "tools": count_tools(trial),
        "tokens": measure_tokens(trial),
        "template": read_json(trial.tokens / token_files.SUMMARY)["chat_template"]["says"] if trial.tokens else None,
        "tokenizer": trial.tokenizer or None,
        "no_tokens": trial.no_tokens or None,
        "examples": list(shown),
    }


def foretell_gate(
    summary: dict[str, Any], rules: list[dict[str, Any]], heldout: int, floors: dict[str, Any]
) -> dict[str, Any]:
    """The figures of the rows that the audit will judge, each with its floor.

    Args:
        summary: summary.json of data/messages.
        rules: those of both stages that have set rows aside.
        heldout: held-out rows behind the last stage that was tried.
        floors: the section `audit` of params.yaml.
    """
    shares = {
        f"{fate}_share": sum(rule["rows"] for rule in rules if rule["fate"] == fate) / summary["raw"]
        for fate in SET_ASIDE
    }
    asked = ("min_heldout_rows", "max_seen_answers", *(f"max_{share}" for share in shares))
    seen = summary["seen"]["answers"]["share"]
    return {"heldout": heldout, "seen_answers": seen, **shares, **{floor: floors[floor] for floor in asked}}


def list_flags(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """By flag, the one with the most rows first: {flag, meaning, rows, origins of the first ones}."""
    found = [
        {
            "flag": flag,
            "meaning": standardize_rules.FLAGS[flag],
            "rows": told["rows"],
            "origins": [{key: place[key] for key in ("source", "file", "line")} for place in told["places"]],
        }
        for flag, told in summary["flags"].items()
    ]
    return sorted(found, key=lambda flag: -int(flag["rows"]))


def find_uses(trial: TrialRun, dialects: list[Dialect | None]) -> list[dict[str, Any]]:
    """By source, {layout: its name or None, uses: {column: what it is used for}}."""
    rows = trial.raw / raw_files.ROWS
    found = []
    for number, dialect in enumerate(dialects):
        first = list(islice(parse_objects(read_records(rows, number)), ROWS_TO_TRY))
        uses = find_column_uses(first, partial(canonical_form, dialect=dialect))
        found.append({"layout": dialect.name if dialect else None, "uses": uses})
    return found


def count_kept_rows(trial: TrialRun) -> dict[str, int]:
    """{train, heldout}: rows behind the last stage that was tried."""
    if trial.tokens:
        tables = {split: token_files.read_tokens(trial.tokens / name) for split, name in token_files.SPLITS.items()}
        return {split: table.num_rows for split, table in tables.items()}
    splits = read_parquet(trial.messages / message_files.MESSAGES, ["split"])["split"]
    return {split: pc.sum(pc.equal(splits, split)).as_py() or 0 for split in message_files.SPLITS}


def list_rejected(trial: TrialRun, names: list[str]) -> list[dict[str, Any]]:
    """By rule, the one with the most rows first: {rule, stage, fate, meaning, rows, origins of the first ones}."""
    lists = [("standardize", trial.messages / message_files.REJECTED, standardize_rules.RULES)]
    if trial.tokens:
        lists.append(("template", trial.tokens / token_files.REJECTED, template_rules.RULES))
    found = []
    for stage, path, meanings in lists:
        table = read_parquet(path).sort_by("row")
        for rule in pc.unique(table["rule"]).to_pylist():
            rows = table.filter(pc.equal(table["rule"], rule))
            origins = [origin_of(item, names) for item in rows.slice(0, ORIGINS).to_pylist()]
            fate = standardize_rules.fate_of(rule)
            found.append(
                {
                    "rule": rule,
                    "stage": stage,
                    "fate": fate,
                    "meaning": meanings[rule],
                    "rows": rows.num_rows,
                    "origins": origins,
                }
            )
    return sorted(found, key=lambda rule: -rule["rows"])


def find_unknown_roles(trial: TrialRun, dialects: list[Dialect | None]) -> list[str]:
    """Some roles that no dialect knows, cut short; they are the dataset's text, so they stand in no log and in no error."""
    table = read_parquet(trial.messages / message_files.REJECTED)
    rows = set(table.filter(pc.equal(table["rule"], "unknown_role"))["row"].slice(0, ROWS_TO_TRY).to_pylist())
    found: dict[str, None] = {}
    if rows:
        for batch in read_parquet_batches(trial.raw / raw_files.ROWS, ["row", "source", "record"]):
            for item in batch.filter(pc.is_in(batch["row"], pa.array(rows, pa.int64()))).to_pylist():
                dialect = dialects[item["source"]]
                for turn in dialect.turns(parse_record(item["record"])) if dialect else ():
                    if role_of(turn.role) is None:
                        found[str(turn.role)[:ROLE]] = None
            if len(found) >= ROLES:
                break
    return list(found)[:ROLES]


def measure_too_long(trial: TrialRun) -> dict[str, int] | None:
    """{p50, p90, max} tokens of the rows that are too long, and the shortest max_length that keeps 95 % of all; None if there are none."""
    if trial.tokens is None or trial.long is None:
        return None
    longer, kept = (
        sorted(length for name in token_files.SPLITS.values() for length in read_row_lengths(folder / name))
        for folder in (trial.long, trial.tokens)
    )
    if not longer:
        return None
    whole = sorted([*kept, *longer])
    return {
        "p50": percentile(longer, 50),
        "p90": percentile(longer, 90),
        "max": longer[-1],
        "keeps_95_percent": percentile(whole, 95),
    }


def percentile(values: list[int], percent: int) -> int:
    """Of sorted values the smallest that at least `percent` of them do not exceed (nearest rank): one of two is no 90 %."""
    return values[-(-len(values) * percent // 100) - 1]


def read_row_lengths(path: Path) -> list[int]:
    """Tokens of each row."""
    found: list[int] = pc.list_value_length(token_files.read_tokens(path)["input_ids"]).to_pylist()
    return found


def count_tools(trial: TrialRun) -> dict[str, int]:
    """{defined: kept conversations with tools, calls: messages that call one, context_only: answers of weight 0, thoughts: answers behind one}."""
    counts = {"defined": 0, "calls": 0, "context_only": 0, "thoughts": 0}
    for batch in read_parquet_batches(trial.messages / message_files.MESSAGES, ["tools", "messages"]):
        messages = batch["messages"].flatten()
        counts["defined"] += batch.num_rows - batch["tools"].null_count
        calls, train = messages.field("tool_calls"), messages.field("train")
        counts["calls"] += len(messages) - calls.null_count
        counts["thoughts"] += len(messages) - messages.field("reasoning").null_count
        counts["context_only"] += pc.sum(pc.invert(train)).as_py() or 0
    return counts


def measure_tokens(trial: TrialRun) -> dict[str, Any] | None:
    """{p50, p90, max, tokens, labelled_share, truncated, max_length...} of the kept rows, both splits together; None without tokens."""
    if trial.tokens is None:
        return None
    tables = [token_files.read_tokens(trial.tokens / name) for name in token_files.SPLITS.values()]
    lengths = sorted(chain.from_iterable(pc.list_value_length(table["input_ids"]).to_pylist() for table in tables))
    summary = read_json(trial.tokens / token_files.SUMMARY)
    labelled = sum(split["labelled_tokens"] for split in summary["splits"].values())
    if not lengths:
        return None
    return {
        "p50": percentile(lengths, 50),
        "p90": percentile(lengths, 90),
        "max": lengths[-1],
        "tokens": sum(lengths),
        "labelled_share": labelled / sum(lengths),
        "truncated": sum(split["truncated"] for split in summary["splits"].values()),
    }


def read_token_examples(trial: TrialRun, count: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """Rows as they will be trained: of train, evenly spread; of heldout where train has too few."""
    if trial.tokens is None:
        return
    from retune.preview import read_origins, read_tokenizer

    tokenizer = read_tokenizer(trial.tokens / token_files.TOKENIZER)
    controls = control_ids(tokenizer)
    rows: list[tuple[str, dict[str, Any]]] = []
    for split, name in token_files.SPLITS.items():
        table = token_files.read_tokens(trial.tokens / name)
        rows += [(split, table.slice(place, 1).to_pylist()[0]) for place in spread(table.num_rows, count - len(rows))]
    origins = read_origins(trial.messages / message_files.MESSAGES, names, [row["row_id"] for _, row in rows])
    for split, row in rows:
        yield {
            "row_id": row["row_id"],
            "split": split,
            "origin": origins.get(row["row_id"]),
            "tokens": len(row["input_ids"]),
            "labelled_tokens": sum(label != NOT_TRAINED for label in row["labels"]),
            "runs": token_runs(tokenizer, controls, row["input_ids"], row["labels"]),
        }


def read_message_examples(trial: TrialRun, count: int, names: list[str], train_on: str) -> Iterator[dict[str, Any]]:
    """Rows as messages, evenly spread, for want of a tokenizer."""
    path = trial.messages / message_files.MESSAGES
    places = set(spread(pq.read_metadata(path).num_rows, count))
    at = 0
    for batch in read_parquet_batches(path):
        here = sorted(place - at for place in places if at <= place < at + batch.num_rows)
        for row in batch.take(pa.array(here, pa.int64())).to_pylist():
            origin = origin_of(row, names)
            runs = message_runs(row["messages"], row["tools"], train_on)
            yield {"row_id": row["row_id"], "split": row["split"], "origin": origin, "runs": runs}
        at += batch.num_rows


def message_runs(messages: list[dict[str, Any]], tools: str | None, train_on: str) -> list[Run]:
    """Messages as runs: the roles are what the template will write with control tokens."""
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    bear_loss = answers if train_on == "all_assistant_turns" else answers[-1:]
    runs = [Run(f"tools: {tools}\n", trained=False, control=False, tokens=0)] if tools else []
    for place, message in enumerate(messages):
        runs.append(Run(f"{message['role']}:", trained=False, control=True, tokens=0))
        text = message["content"] + (f" {message['tool_calls']}" if message["tool_calls"] else "")
        trained = place in bear_loss and message["train"]
        runs += [Run(" ", trained=False, control=False, tokens=0), Run(text, trained=trained, control=False, tokens=0)]
        runs.append(Run("\n", trained=False, control=False, tokens=0))
    return runs
