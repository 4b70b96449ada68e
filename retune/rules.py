"""What each rule that sets a row aside means: those of `standardize` and those of `template`."""

from stages.chat import batches as fitting
from stages.chat import turns
from stages.conversations.row_rules import RULES

TEMPLATE_RULES = {
    turns.CONTROL_TOKEN_IN_CONTENT: "a text holds a control token, which would forge a turn (template.control_tokens_in_content: split keeps it as text)",
    turns.NO_ASSISTANT_TURN: "no answer to learn",
    turns.NOTHING_TO_TRAIN: "no answer of it may bear loss: their weights are 0",
    turns.RENDERING_TOO_LARGE: "the chat template wrote much more than the contents account for",
    turns.SPANS_UNVERIFIED: "it could not be proven which tokens are the assistant's (another template.chat_template may do)",
    turns.TEMPLATE_REFUSED: "the chat template refuses it: roles out of turn, or a role that it does not know",
    turns.TOOLS_NOT_RENDERED: "the chat template does not write tools (template.chat_template: plain does; chatml does where the vocabulary has its tokens, else with "
    "template.missing_control_tokens: add)",
    turns.TURN_IN_CONTENT: "a text holds what this chat template writes between two turns, which would forge one (a template with control tokens tells them apart)",
    turns.TURN_NOT_RENDERED: "the chat template leaves a turn out",
    fitting.TOO_LONG: "more tokens than template.max_length",
    fitting.NO_LABELS_LEFT: "what was cut off at template.max_length held all that would have been trained",
}
"""tests/retune/test_inspect.py holds this to the names in the stages' files."""

MEANINGS = RULES | TEMPLATE_RULES
