"""Messages -> ids and labels that a trainer memory-maps, and the tokenizer that all later stages use.

Reads  data/messages, data/tokenizer, data/custom (a chat template of yours, if the params name one)
Writes data/tokens: train.arrow, heldout.arrow, rejected.parquet, summary.json, tokenizer/

    python -m stages.template --messages data/messages --tokenizer data/tokenizer --custom data/custom --tokens data/tokens

The tokenizer that is written ends a turn with its eos_token, pads with another token, and carries the chat template with
the date (and, where the template left it out, the BOS) written in: `apply_chat_template` without arguments gives the ids
of train.arrow, BOS once, today and next year.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator

from stages.arrow.tables import count_rows, open_arrow, read_parquet_batches, write_parquet
from stages.chat import rendering
from stages.chat.chat import Chat
from stages.chat.choice_summary import summarize_choice
from stages.chat.dialogues import COLUMNS
from stages.chat.encoding import encode_dialogues
from stages.chat.firm_values import hold_values
from stages.chat.fit_to_length import fit_batch
from stages.chat.observed_template import note_template
from stages.chat.row_rules import NO_LABELS_LEFT, RULES, TOO_LONG
from stages.chat.template_choice import TemplateWishes, list_our_templates, prepare
from stages.chat.template_words import say_template
from stages.chat.token_account import TokenAccount
from stages.contracts import messages as messages_contract
from stages.contracts import tokens as contract
from stages.core.errors import StageError
from stages.core.files import write_json
from stages.core.params import Params, Runtime
from stages.core.runner import Input, Output, run
from stages.show.progress import progress
from stages.tokenization.loading.fast import Differs, ReferenceEncoder, open_encoder
from stages.tokenization.loading.tokenizer_folder import read_tokenizer_folder, write_tokenizer_folder
from stages.workers.ordered_map import count_workers, ordered_map
from stages.workers.system_memory import take_memory_from_system
from stages.workers.without_pandas import leave_pandas_out

log = logging.getLogger("retune")

BATCH = 1_000
"""Dialogues encoded together. The files do not depend on it."""


class TemplateParams(Params):
    """How dialogues become tokens."""

    chat_template: Annotated[str, Field(min_length=1)]
    """tokenizer (its own), llama-3.1, chatml, plain, or NAME.jinja in data/custom. It writes the control tokens around the turns."""
    date_string: str
    """The day that a template may write, such as "26 Jul 2024", in place of today. So tokens are the same tomorrow."""
    max_length: Annotated[int, Field(ge=8)]
    """The longest row, in tokens. Longer rows need more memory in training."""
    too_long: Literal["reject", "cut_turn", "cut"]
    """What becomes of longer rows. reject: they are set aside; cut_turn: cut behind the last answer that fits whole; cut: cut at
    max_length, in mid-sentence."""
    train_on: Literal["all_assistant_turns", "last_assistant_turn"]
    """Which answers bear loss. The last alone fits data whose earlier answers are only context."""
    control_tokens_in_content: Literal["reject", "split"]
    """What becomes of messages with a control token in their text. It would forge a turn. reject: the row is set aside; split: the token is
    spelled out as ordinary text (where that can be told from a real one: not in tools, nor where a template changes contents)."""
    options: dict[str, Any]
    """Variables for the chat template, such as {enable_thinking: false}; {}: none. The same at inference: they are written into
    what is shipped. A row's own chat_template_kwargs go over them for that row."""
    prompt: Literal["auto", "train_gap", "extend_prompt"]
    """Who writes the gap between prompt and answer. train_gap: the model learns to, and the prompt stays
    its family's; extend_prompt: the prompt that is shipped; auto: the model, unless the template has no generation prompt of its own."""
    reasoning: Literal["train", "mask", "strip", "last_turn"]
    """What becomes of an answer's thoughts. train: they are trained as the answer is; mask: they are context; strip: they are taken out;
    last_turn: those behind the last question are trained, others taken out (templates that drop these do it too)."""
    missing_control_tokens: Literal["text", "add", "error"]
    """What becomes of control tokens that the vocabulary lacks. text: they are spelled out (the base model has to learn them, generation
    stops on that text); add: they become tokens (their embeddings must be trained and are saved); error: the stage fails."""

    @field_validator("date_string")
    @classmethod
    def check_date(cls, value: str) -> str:
        """Accept the forms that can be read."""
        rendering.parse_date(value)
        return value

    @field_validator("options", mode="before")
    @classmethod
    def check_mapping(cls, value: object) -> object:
        """Accept a mapping."""
        if not isinstance(value, dict):
            raise ValueError("must be a mapping, such as {enable_thinking: false}; {} is none")  # noqa: TRY004 - pydantic's
        return value

    @field_validator("options")
    @classmethod
    def check_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Accept JSON under names of variables that say nothing of what is rendered."""
        for name in value:
            if not name.isidentifier():
                raise ValueError(f"{name!r} is no name of a variable: letters, digits and _ are")
            if name in rendering.RESERVED or name.endswith("_token"):
                raise ValueError(f"{name!r} is no option: it says what is rendered, which `template` itself does")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError("must hold texts, numbers, true, false, null, and lists and mappings of them") from error
        return value

    @field_validator("chat_template")
    @classmethod
    def check_template_name(cls, value: str) -> str:
        """Accept `tokenizer`, the names of our files, and the name of a .jinja file."""
        if value != "tokenizer" and value not in list_our_templates() and not value.endswith(".jinja"):
            msg = f"must be tokenizer, one of {', '.join(list_our_templates())}, or NAME.jinja, a file in data/custom"
            raise ValueError(msg)
        return value


def template(
    messages: Input, tokenizer: Input, custom: Input, tokens: Output, params: TemplateParams, runtime: Runtime
) -> None:
    """Render, tokenize and label every conversation; write the rows by split and what later stages need to know of them.

    summary.json: splits.{train,heldout}.{rows, tokens, labelled_tokens, truncated, length, lengths}, rejected.{rule: rows},
    rows_in, answers_not_trained.{rule: answers of kept rows}, chat_template.{name, sha256, says and what `describe_template` finds},
    prompt.{choice, reason, gap, header}, reasoning, options, row_options_unread.{option of rows that the template does not read: rows}, date_string,
    end_of_turn.{text, ids, special, inner}, answer (an AnswerForm), bos, pad,
    control_tokens.{as_text, added}, vocabulary_size. `end_of_turn` is what generation stops at, `inner` the text behind an answer that
    another turn follows, where it is another and so context; `special` false: generation must stop on the text, no token stands for it.
    """
    if count_workers(runtime.workers) > 1:
        # each worker is one thread's work; the slower tokenizer would start as many threads as there are cores in each
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    came = read_tokenizer_folder(tokenizer)
    tokens.mkdir(parents=True)
    wishes = read_wishes(params)
    try:
        choice = prepare(came, custom, wishes, open_encoder)
        account, rejected = write_rows(messages, tokens, choice.chat, params, runtime)
    except Differs as difference:
        log.warning("%s; starting again with the slower tokenizer", difference)
        choice = prepare(came, custom, wishes, lambda _, reference: ReferenceEncoder(reference))
        account, rejected = write_rows(messages, tokens, choice.chat, params, runtime)
    folder = tokens / contract.TOKENIZER
    shipped = choice.chat_template
    if not account.rows_with_options:
        shipped = hold_values(shipped, choice.chat.turns.template, params.options)
    write_tokenizer_folder(folder, came, choice.source, choice.tokens, shipped, choice.added)
    write_parquet(tokens / contract.REJECTED, rejected, contract.REJECTED_SCHEMA)
    said = {**account.summarize(), **summarize_choice(choice, wishes)}
    unread = said["row_options_unread"] = account.find_unread(said["chat_template"]["options_read"])
    said["chat_template"] |= {"sha256": hashlib.sha256(shipped.encode()).hexdigest(), "says": say_template(said)}
    write_json(tokens / contract.SUMMARY, said)
    note_template(said, choice, came, custom, wishes, params.max_length)
    if not account.splits["train"].lengths:
        raise StageError(nothing_left(account, params))
    log.info("%s", choice.prompt.reason)
    if unused := said["chat_template"]["options_unused"]:
        log.warning("template.options: the chat template reads no %s", ", no ".join(unused))
    if unread:
        asked = ", ".join(f"{name} ({rows} rows)" for name, rows in unread.items())
        log.warning("the chat template does not read what rows ask for in chat_template_kwargs: %s", asked)
    log.info("%s", account.describe())


def read_wishes(params: TemplateParams) -> TemplateWishes:
    """What the params ask of the template."""
    return TemplateWishes(
        params.chat_template,
        params.date_string,
        params.missing_control_tokens,
        params.options,
        params.prompt,
        params.reasoning,
    )


def write_rows(
    messages: Path, tokens: Path, chat: Chat, params: TemplateParams, runtime: Runtime
) -> tuple[TokenAccount, list[pa.RecordBatch]]:
    """Encode data/messages batch by batch, in worker processes, and write the rows of each split as they come.

    Returns the counts, and the rows that were rejected.
    """
    as_text = params.control_tokens_in_content == "split"
    encode = partial(encode_dialogues, chat, train_on=params.train_on, split=as_text)
    fit = partial(fit_batch, encode=encode, max_length=params.max_length, too_long=params.too_long)
    account = TokenAccount()
    rejected: list[pa.RecordBatch] = []
    path = messages / messages_contract.MESSAGES
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(open_arrow(tokens / name, contract.SCHEMA))
            for split, name in contract.SPLITS.items()
        }
        advance = stack.enter_context(progress("tokenizing", count_rows(path)))
        for done in ordered_map(
            fit, account.count_options(read_parquet_batches(path, COLUMNS, BATCH)), runtime.workers
        ):
            for split, batch in done.tokens.items():
                writers[split](batch)
            account.add(done)
            rejected.append(done.rejected)
            advance(sum(batch.num_rows for batch in done.tokens.values()) + done.rejected.num_rows)
    return account, rejected


def nothing_left(account: TokenAccount, params: TemplateParams) -> str:
    """What to say when no training row is left."""
    rules = account.splits["train"].rejected
    if not rules:
        return "data/messages holds no training row; look at its rejected.parquet, and at standardize.heldout_fraction"
    found = "; ".join(f"{count} {rule}: {RULES[rule]}" for rule, count in rules.most_common())
    hint = f" (max_length is {params.max_length})" if TOO_LONG in rules or NO_LABELS_LEFT in rules else ""
    return f"no training row is left of {rules.total()}{hint}: {found}"


def uses(params: TemplateParams, _inputs: Mapping[str, Path]) -> dict[str, list[str]]:
    """Of data/custom the chat template, if it is one of the user's."""
    return {"custom": [params.chat_template] if params.chat_template.endswith(".jinja") else []}


if __name__ == "__main__":
    leave_pandas_out()
    take_memory_from_system()
    run(template, uses, runtime_keys=("workers",))
