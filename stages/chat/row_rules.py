"""The rules that set a conversation aside where it becomes tokens, each with what it means: log, page and command line say these words."""

from collections.abc import Mapping

CALL_NOT_RENDERED = "call_not_rendered"
CONTROL_TOKEN_IN_CONTENT = "control_token_in_content"  # noqa: S105 - the name of a rule
NO_ASSISTANT_TURN = "no_assistant_turn"
NO_LABELS_LEFT = "no_labels_left"
NOTHING_TO_TRAIN = "nothing_to_train"
OPTION_NOT_ALLOWED = "option_not_allowed"
PROMPT_CLOSES_REASONING = "prompt_closes_reasoning"
PROMPT_DIFFERS = "prompt_differs"
PROMPT_TOKENS_DIFFER = "prompt_tokens_differ"
REASONING_DROPPED = "reasoning_dropped"
REASONING_ENDS_TURN = "reasoning_ends_turn"
REASONING_NOT_RENDERED = "reasoning_not_rendered"
RENDERING_TOO_LARGE = "rendering_too_large"
SPANS_UNVERIFIED = "spans_unverified"
TEXT_BESIDE_CALL_NOT_RENDERED = "text_beside_call_not_rendered"
TEMPLATE_FORBIDDEN = "template_forbidden"
TEMPLATE_REFUSED = "template_refused"
TOO_LONG = "too_long"
TOOLS_NOT_RENDERED = "tools_not_rendered"
TURN_IN_CONTENT = "turn_in_content"
TURN_NOT_RENDERED = "turn_not_rendered"

RULES: Mapping[str, str] = {
    CONTROL_TOKEN_IN_CONTENT: "a text holds a control token, which would forge a turn (template.control_tokens_in_content: split keeps it as text)",
    NO_ASSISTANT_TURN: "no answer to learn",
    NOTHING_TO_TRAIN: "no answer of it may bear loss: their weights are 0, or they are empty",
    RENDERING_TOO_LARGE: "the chat template wrote much more than the contents account for",
    SPANS_UNVERIFIED: "it could not be proven which tokens are the assistant's (another template.chat_template may do)",
    TEMPLATE_REFUSED: "the chat template refuses it: roles out of turn, a role that it does not know, or an option that it needs (template.options)",
    TEMPLATE_FORBIDDEN: "the chat template changes a list or a mapping for it (Kimi-K2 does for calls), which the sandbox of transformers forbids: "
    "apply_chat_template fails on it, too (another template.chat_template)",
    TOOLS_NOT_RENDERED: "the chat template does not write the definitions of its tools, or no tools at all (template.chat_template: plain does; chatml does "
    "where the vocabulary has its tokens, else with template.missing_control_tokens: add)",
    CALL_NOT_RENDERED: "the chat template leaves out a call of a tool, or an argument of it (template.chat_template: plain writes all)",
    TEXT_BESIDE_CALL_NOT_RENDERED: "the chat template writes a call and drops the text beside it, or writes it behind the call's result (template.chat_template: plain writes both)",
    REASONING_NOT_RENDERED: "the chat template does not write an answer's thoughts, or not before a call (template.reasoning: strip trains the answers "
    "without them)",
    REASONING_ENDS_TURN: "an answer has thoughts, and the chat template ends thoughts and answers with the same token, so generation would stop before the answer "
    "(template.reasoning: strip trains the answers without them; or another template.chat_template)",
    PROMPT_CLOSES_REASONING: "an answer has thoughts, and the generation prompt says that there are none (template.options, such as {enable_thinking: true}; or "
    "template.reasoning: strip)",
    REASONING_DROPPED: "the chat template drops the thoughts of answers before the last, which would teach to answer without thinking "
    "(template.reasoning: strip trains them without; so does last_turn, but for calls behind the last question)",
    PROMPT_DIFFERS: "in training the chat template writes something else before the answer than it asks a model to go on from "
    "(template.prompt: extend_prompt ships the prompt that training has; template.options may change it, too; where earlier thoughts are the "
    "difference, template.reasoning: last_turn)",
    PROMPT_TOKENS_DIFFER: "the answer's first characters melt into one token with its prompt, so no model could begin with them (if it is that the prompt opens a "
    "thought and answers have none: template.options, such as {enable_thinking: false})",
    OPTION_NOT_ALLOWED: "its chat_template_kwargs set what only the rendering may (messages, tools, add_generation_prompt ...)",
    TURN_IN_CONTENT: "a text holds what this chat template writes between two turns, which would forge one (a template with control tokens tells them apart)",
    TURN_NOT_RENDERED: "the chat template leaves a turn out",
    TOO_LONG: "more tokens than template.max_length",
    NO_LABELS_LEFT: "what was cut off at template.max_length held all that would have been trained",
}
"""{rule: what it means}; the keys are the values of data/tokens' rejected.parquet, column `rule`."""
