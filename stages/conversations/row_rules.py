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
NULL_CONTENT = "null_content"
CONTENT_NOT_TEXT = "content_not_text"
EMPTY_CONTENT = "empty_content"
NUL_CHARACTER = "nul_character"
SYSTEM_NOT_FIRST = "system_not_first"
STARTS_WITH_ANSWER = "starts_with_answer"
ROLES_NOT_ALTERNATING = "roles_not_alternating"
ENDS_WITHOUT_ANSWER = "ends_without_answer"
NOTHING_TO_TRAIN = "nothing_to_train"
TOO_MANY_MESSAGES = "too_many_messages"
TOO_LARGE = "too_large"
DUPLICATE_KEY = "duplicate_key"
OTHER_LANGUAGE = "other_language"
CONTAMINATED = "contaminated"
DUPLICATE = "duplicate"
NEAR_HELDOUT = "near_heldout"
NEAR_DUPLICATE = "near_duplicate"

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
    OPTIONS_UNREADABLE: "`chat_template_kwargs` that is no mapping of options to values",
    WEIGHT_NOT_0_OR_1: "an answer whose weight is neither 0 nor 1: only whole answers are trained or left out",
    NULL_CONTENT: "a message without content",
    CONTENT_NOT_TEXT: "content that is neither text nor text parts",
    EMPTY_CONTENT: "content that is empty or white space",
    NUL_CHARACTER: "a NUL character",
    SYSTEM_NOT_FIRST: "a system message after the first message",
    STARTS_WITH_ANSWER: "the first message after the system's is not the user's",
    ROLES_NOT_ALTERNATING: "an answer, question or tool's result that may not stand behind the message before it",
    ENDS_WITHOUT_ANSWER: "the last message is not the assistant's",
    NOTHING_TO_TRAIN: "every answer has the weight 0",
    TOO_MANY_MESSAGES: "more messages than `standardize.max_messages`",
    TOO_LARGE: "more characters than `standardize.max_chars`",
    DUPLICATE_KEY: "a key twice in one object, so that readers differ on what the conversation is",
    OTHER_LANGUAGE: "in none of `standardize.languages`",
    CONTAMINATED: "holds a text of `standardize.contamination`",
    DUPLICATE: "the same conversation came before (the first one is kept)",
    NEAR_HELDOUT: "nearly repeats a held-out conversation, which would then measure what was trained",
    NEAR_DUPLICATE: "nearly repeats a conversation that came before (the first one is kept)",
}
"""{rule: what it means}, in the order in which they are looked at; the keys are the values of data/messages' rejected.parquet, column `rule`."""


class Rejected(Exception):  # noqa: N818 - no error of the program's: a row that a rule sets aside
    """This row breaks `rule`, a key of RULES."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule
