"""The rules that set a row aside where it becomes a conversation, each with what it means: log, page and command line say these words.

A rule's name is all that ever leaves here with a row's number: never its text.
"""

from collections.abc import Mapping

INVALID_JSON = "invalid_json"
INVALID_UNICODE = "invalid_unicode"
NOT_AN_OBJECT = "not_an_object"
MEDIA = "media"
LAYOUT = "layout"
NO_MESSAGES = "no_messages"
UNKNOWN_ROLE = "unknown_role"
TOOLS_UNREADABLE = "tools_unreadable"
TOOL_CALL_UNREADABLE = "tool_call_unreadable"
CALL_NOT_LAST = "call_not_last"
TRANSCRIPT_UNREADABLE = "transcript_unreadable"
OPTIONS_UNREADABLE = "options_unreadable"
WEIGHT_NOT_0_OR_1 = "weight_not_0_or_1"
ANSWER_TRAINED_IN_PART = "answer_trained_in_part"
ANOTHER_ROLE_TRAINED = "another_role_trained"
REASONING_NOT_TEXT = "reasoning_not_text"
REASONING_UNCLOSED = "reasoning_unclosed"
REASONING_NOT_FIRST = "reasoning_not_first"
REASONING_DIFFERS = "reasoning_differs"
REASONING_ALONE = "reasoning_alone"
NULL_CONTENT = "null_content"
CONTENT_NOT_TEXT = "content_not_text"
EMPTY_CONTENT = "empty_content"
NUL_CHARACTER = "nul_character"
SYSTEM_NOT_FIRST = "system_not_first"
STARTS_WITH_ANSWER = "starts_with_answer"
ROLES_NOT_ALTERNATING = "roles_not_alternating"
ENDS_WITHOUT_ANSWER = "ends_without_answer"
NOTHING_TO_TRAIN = "nothing_to_train"
TOOL_NOT_SHOWN = "tool_not_shown"
TOO_MANY_MESSAGES = "too_many_messages"
TOO_LARGE = "too_large"
DUPLICATE_KEY = "duplicate_key"
OTHER_LANGUAGE = "other_language"
CONTAMINATED = "contaminated"
DUPLICATE = "duplicate"
NEAR_HELDOUT = "near_heldout"
NEAR_DUPLICATE = "near_duplicate"
PLACEHOLDER_ANSWER = "placeholder_answer"
ANSWER_REPEATS_QUESTION = "answer_repeats_question"
HTML_LEFT_IN = "html_left_in"
EMAIL_ADDRESS = "email_address"
PHONE_NUMBER = "phone_number"
SECRET_KEY = "secret_key"  # noqa: S105 - the name of a flag
SAME_ANSWER = "same_answer"

FLAGS: Mapping[str, str] = {
    PLACEHOLDER_ANSWER: "an answer that is none, such as n/a, - or TODO",
    ANSWER_REPEATS_QUESTION: "an answer that is its question again",
    HTML_LEFT_IN: "HTML tags or entities outside of code",
    EMAIL_ADDRESS: "an e-mail address",
    PHONE_NUMBER: "a phone number, as it is written for abroad or in North America",
    SECRET_KEY: "a key, token or password that looks like a secret",
    SAME_ANSWER: "an answer that more than 1 % of the rows have",
}
"""{flag: what it means}: what is told of rows that break no rule. All but the last are told by the row itself, and are its rule where
`standardize.flagged` is drop."""

NULLS_REMOVED = "nulls_removed"
NUMBERS_AS_TEXT = "numbers_as_text"
TOOLS_NOT_SHOWN = "tools_not_shown"
MERGED = "merged"
GREETING = "greetings"
HANDED_ON = "handed_on"

CHANGES: Mapping[str, str] = {
    NULLS_REMOVED: "nulls are taken out that the file's columns put into arguments, tools, options or parts",
    NUMBERS_AS_TEXT: "an answer is a number, true or false: read as text",
    TOOLS_NOT_SHOWN: "an answer calls a tool that is shown nowhere in the row: not trained",
    MERGED: "neighbours of one role are joined (standardize.turns)",
    GREETING: "the opening answer is context (standardize.turns)",
}
"""{kind of note: what was changed in reading}, of rows that are kept: log and command line say these words behind "in N rows", the page beside N."""

NOTES: Mapping[str, str] = {HANDED_ON: "handed on to the chat template, which need not write what it gets", **CHANGES}
"""The same, and what becomes of a key that is no part of a message and that a chat template may read."""

PRIVATE = frozenset({EMAIL_ADDRESS, PHONE_NUMBER, SECRET_KEY})
"""Flags of rows whose text no page shows."""

RULES: Mapping[str, str] = {
    INVALID_JSON: "the record is not JSON, or nested too deep",
    INVALID_UNICODE: "bytes that are not UTF-8, or a lone surrogate",
    NOT_AN_OBJECT: "the record is JSON, but no object (for .csv: a line with more or fewer fields than the header)",
    MEDIA: "a picture, sound or film beside the text or in it",
    LAYOUT: "not of the layout that the first rows of its source have",
    NO_MESSAGES: "the conversation is empty",
    UNKNOWN_ROLE: "a role that no dialect knows",
    TOOLS_UNREADABLE: "`tools` that are no list of functions with names",
    TOOL_CALL_UNREADABLE: "a tool call that is no name with an object of arguments, or that is not the assistant's",
    CALL_NOT_LAST: "text behind a tool call in one message: chat templates write calls last, which would change what was said",
    TRANSCRIPT_UNREADABLE: "a text with turns in it that does not divide whole into messages, by the marks that its source has",
    OPTIONS_UNREADABLE: "`chat_template_kwargs` that is no mapping of options to values, nor one as JSON text",
    WEIGHT_NOT_0_OR_1: "an answer whose weight is neither 0 nor 1, or whose weights disagree: only whole answers are trained or left out",
    ANSWER_TRAINED_IN_PART: "`train_detail` that trains a part of an answer: only whole answers are trained or left out",
    ANOTHER_ROLE_TRAINED: "`train` or `loss` beside a message that is not the assistant's: only answers are trained",
    REASONING_NOT_TEXT: "thoughts that are no text, or that are redacted",
    REASONING_UNCLOSED: "a tag of thoughts, such as <think>, that is opened and not closed, closed and not opened, or opened twice",
    REASONING_NOT_FIRST: "thoughts in the middle of an answer: chat templates write those before it alone",
    REASONING_DIFFERS: "two different thoughts of one answer, such as a `reasoning_content` and another in <think>",
    REASONING_ALONE: "thoughts without an answer or a tool call behind them",
    NULL_CONTENT: "a message without content",
    CONTENT_NOT_TEXT: "content that is neither text nor text parts",
    EMPTY_CONTENT: "content that is empty or white space",
    NUL_CHARACTER: "a NUL character",
    SYSTEM_NOT_FIRST: "a system message after the first message",
    STARTS_WITH_ANSWER: "the first message after the system's is not the user's",
    ROLES_NOT_ALTERNATING: "an answer, question or tool's result that may not stand behind the message before it",
    ENDS_WITHOUT_ANSWER: "the last message is not the assistant's",
    NOTHING_TO_TRAIN: "every answer has the weight 0",
    TOOL_NOT_SHOWN: "every answer calls a tool that the row shows nowhere: no definition in it, no name in the system's text",
    TOO_MANY_MESSAGES: "more messages than `standardize.max_messages`",
    TOO_LARGE: "more characters than `standardize.max_chars`",
    DUPLICATE_KEY: "a key twice in one object, so that readers differ on what the conversation is",
    OTHER_LANGUAGE: "in none of `standardize.languages`",
    CONTAMINATED: "holds a text of `standardize.contamination`",
    DUPLICATE: "the same conversation came before (the first one is kept)",
    NEAR_HELDOUT: "nearly repeats a held-out conversation, which would then measure what was trained",
    NEAR_DUPLICATE: "nearly repeats a conversation that came before (the first one is kept)",
    **FLAGS,
}
"""{rule: what it means}, in the order in which they are looked at, but for the flags; the keys are the values of data/messages' rejected.parquet, column `rule`."""

OTHER_FATES: Mapping[str, str] = {DUPLICATE: "repeated", NEAR_DUPLICATE: "repeated", NEAR_HELDOUT: NEAR_HELDOUT}
"""{rule: fate} of the rules that say nothing against a row itself (contracts.messages.FATES)."""


def fate_of(rule: str) -> str:
    """What the rows of a rule are counted as: rejected, repeated or near_heldout."""
    return OTHER_FATES.get(rule, "rejected")


class Rejected(Exception):  # noqa: N818 - no error of the program's: a row that a rule sets aside
    """This row breaks `rule`, a key of RULES."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule
