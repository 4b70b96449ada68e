"""The rules that set a conversation aside where it becomes tokens, each with what it means: log, page and command line say these words."""

from collections.abc import Mapping

CONTROL_TOKEN_IN_CONTENT = "control_token_in_content"  # noqa: S105 - the name of a rule
NO_ASSISTANT_TURN = "no_assistant_turn"
NO_LABELS_LEFT = "no_labels_left"
NOTHING_TO_TRAIN = "nothing_to_train"
RENDERING_TOO_LARGE = "rendering_too_large"
SPANS_UNVERIFIED = "spans_unverified"
TEMPLATE_REFUSED = "template_refused"
TOO_LONG = "too_long"
TOOLS_NOT_RENDERED = "tools_not_rendered"
TURN_IN_CONTENT = "turn_in_content"
TURN_NOT_RENDERED = "turn_not_rendered"

RULES: Mapping[str, str] = {
    CONTROL_TOKEN_IN_CONTENT: "a text holds a control token, which would forge a turn (template.control_tokens_in_content: split keeps it as text)",
    NO_ASSISTANT_TURN: "no answer to learn",
    NOTHING_TO_TRAIN: "no answer of it may bear loss: their weights are 0",
    RENDERING_TOO_LARGE: "the chat template wrote much more than the contents account for",
    SPANS_UNVERIFIED: "it could not be proven which tokens are the assistant's (another template.chat_template may do)",
    TEMPLATE_REFUSED: "the chat template refuses it: roles out of turn, or a role that it does not know",
    TOOLS_NOT_RENDERED: "the chat template does not write tools (template.chat_template: plain does; chatml does where the vocabulary has its tokens, else with "
    "template.missing_control_tokens: add)",
    TURN_IN_CONTENT: "a text holds what this chat template writes between two turns, which would forge one (a template with control tokens tells them apart)",
    TURN_NOT_RENDERED: "the chat template leaves a turn out",
    TOO_LONG: "more tokens than template.max_length",
    NO_LABELS_LEFT: "what was cut off at template.max_length held all that would have been trained",
}
"""{rule: what it means}; the keys are the values of data/tokens' rejected.parquet, column `rule`."""
