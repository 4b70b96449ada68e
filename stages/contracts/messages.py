"""data/messages: conversations as role/content messages, each in train or heldout. Written by `standardize`, read by `template`, `audit` and `report`."""

import pyarrow as pa

from stages.contracts.origin import ORIGIN

MESSAGES = "messages.parquet"
REJECTED = "rejected.parquet"
EXCLUDED = "excluded.parquet"
SUMMARY = "summary.json"
"""Counts: {raw, train, heldout, rejected, repeated, near_heldout, excluded, rules: {rule: rows}, dialects: {layout: rows kept}, sources: [{source, layout, raw,
and the same counts}], near_duplicates: rows marked as such, contaminated: {evaluation set: rows}, exclusions_unmatched: lines of data/exclusions.csv that no
row has, flags: {flag: {rows, places: the first three, [{row_id, source, file, line}]}}, seen}; raw is the sum of FATES, in all and for each source.

`flags` counts the rows of messages.parquet, by its column `flags`, and those with an answer that more than 1 % of its rows have (`same_answer`; no row has
it in its column); where `standardize.flagged` is drop, the rows that were set aside for a flag, each for its first.

`seen`: {answers: {heldout, seen, share, different_in_train}, question_words: {heldout, seen, share, all_read}, says}. `answers.share`: of the answers of
held-out rows (what an assistant says and may be trained on, with its calls; one that a row has twice counts once) those that a training row has, too. Answers
of 200 characters or fewer are the same where case, white space and signs at the edges alone differ, longer ones letter by letter. `question_words.share`: of
the different words in the users' messages of held-out rows those that stand in a user's message of a training row; words as stages/dedup/shingles.py has them.
Of each split 2,000,000 characters of questions are read; where there are more, all_read is false, and the share is the least that it can be for the held-out
words that were read. A share of nothing is null. `says`: both in words; empty where nothing is held out.

And of the rows that break no rule, repetitions with them: {ignored: {columns: {name: rows}, message_keys: {place and name, such as
messages[].name: rows}, more: names that are not listed} (keys that hold something and that nothing reads), handed_on: {place and name, such as
tools[].x: rows} (keys of tools that the format has not, and the row's options: the chat template gets them), nulls_removed: rows that lost nulls which their file's
columns had put into arguments, tools, options or parts, numbers_as_text: rows with an answer that is a number, true or false, tools_not_shown: rows with an untrained answer that calls a tool which they show nowhere,
merged, greetings: rows that `standardize.turns` changed}."""

FATES = ("train", "heldout", "rejected", "repeated", "near_heldout", "excluded")
"""Where a row ends, one of them: kept in a split; rejected by a rule; repeated: as the rules duplicate and near_duplicate say; near_heldout: as the rule of
this name says; excluded on request. rejected.parquet holds the third to fifth, each row with its rule."""

ROLES = ("system", "user", "assistant", "tool")
SPLITS = ("train", "heldout")
ID_LENGTH = 32
"""Hex characters of a row id: the first half of the sha256 of the conversation's canonical JSON."""

MESSAGE = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        # the text; empty only beside tool_calls, and of a tool that had nothing to say
        pa.field("content", pa.string(), nullable=False),
        # of an assistant that calls tools: JSON, [{"type": "function", "function": {"name": ..., "arguments": {...}}, "id": ... where it had one}, ...]; else null
        pa.field("tool_calls", pa.string()),
        # of an assistant that thinks before it answers: its thoughts, without the tags around them and white space at the edges; else null
        pa.field("reasoning", pa.string()),
        # whether an assistant's message may bear loss: false for one of weight 0. true for every other message (they never bear any)
        pa.field("train", pa.bool_(), nullable=False),
    ]
)

FLAGS = pa.list_(pa.string())

SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        *ORIGIN,
        pa.field("split", pa.string(), nullable=False),
        # the row id of an earlier conversation that this one nearly repeats, where near duplicates are flagged; else null
        pa.field("near_duplicate_of", pa.string()),
        # the tools that the assistant may call: JSON, a list as `apply_chat_template(tools=...)` takes it; else null
        pa.field("tools", pa.string()),
        # what the row itself asks of the chat template (`chat_template_kwargs`): a JSON object; else null
        pa.field("options", pa.string()),
        # what is told of a row that breaks no rule (row_rules.FLAGS, stages/conversations/flags.py); null where nothing is
        pa.field("flags", FLAGS),
        pa.field("messages", pa.list_(pa.field("element", MESSAGE, nullable=False)), nullable=False),
    ]
)

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        *ORIGIN,
        pa.field("rule", pa.string(), nullable=False),
        # the row id of the conversation that it repeats or nearly repeats (rules duplicate, near_duplicate, near_heldout); else null
        pa.field("of", pa.string()),
    ]
)

EXCLUDED_SCHEMA = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        *ORIGIN,
        pa.field("reason", pa.string(), nullable=False),
    ]
)
