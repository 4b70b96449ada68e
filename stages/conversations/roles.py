"""The names that datasets give to those who speak, each with the role that it means."""

CALL = "call"
"""The kind of an assistant's message that calls tools; the kinds of all others are their roles."""

ALIASES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter", "input"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "chatbot", "ai", "output"),
    "tool": (
        *("tool", "function", "ipython", "observation"),
        *("tool_response", "tool_result", "tool_results", "tool_output"),
        *("function_response", "function_result", "function_output"),
    ),
    CALL: ("function_call", "function_calls", "tool_call", "tool_calls"),
}
"""By role; those of CALL are the assistant, and their content is the call."""

ROLES = {alias: role for role, aliases in ALIASES.items() for alias in aliases}


def role_of(name: object) -> str | None:
    """The role that a name means, whatever its case and what parts its words; None: no dialect knows it."""
    if not isinstance(name, str):
        return None
    return ROLES.get(name.strip().lower().replace("-", "_").replace(" ", "_"))
