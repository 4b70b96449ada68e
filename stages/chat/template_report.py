"""What a chat template does and does not write, told before anything is trained; pure."""

from collections.abc import Mapping
from typing import Any

from stages.chat.pinning import find_options
from stages.chat.reasoning import CLOSER, OPENER
from stages.chat.rendering import RESERVED, RenderingTooLargeError, Template, TemplateRefusedError
from stages.chat.turns import PIPED, Turns, make_placeholders

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "retune_probe",
        "description": "d",
        "parameters": {"type": "object", "properties": {"retune_key": {"type": "string"}}, "required": ["retune_key"]},
    },
}
CALL = {"type": "function", "id": "call00000", "function": {"name": "retune_probe", "arguments": {"retune_key": "v"}}}

CALLED: tuple[Mapping[str, Any], ...] = (
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "r", "tool_call_id": "call00000", "name": "retune_probe"},
)

KNOWN = RESERVED | {
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "date_string",
    "loop",
    "namespace",
    "range",
    "dict",
    "lipsum",
    "cycler",
    "joiner",
}
"""Names in a template that are no options."""


def describe_template(turns: Turns, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Of a template as it is shipped: {system, tools, calls, calls_forbidden, reasoning, thinks, options_read, options_unused, end_is_added,
    stop_closes_thought}.

    reasoning: how it takes thoughts (`field`, `parts`, `inline`, `prompt`, `none`); thinks: what its generation prompt says of thoughts
    (`opens`, `closes`, `open`: the model decides).
    """
    template = turns.template
    read = find_options(source, set(KNOWN))
    prompt = template.try_render(make_placeholders(("user",)), add_generation_prompt=True) or ""
    thinks = "opens" if OPENER.search(prompt) else "closes" if CLOSER.search(prompt) else "open"
    return {
        "system": writes_system(template),
        "tools": writes_definitions(template),
        "calls": writes_calls(template),
        "calls_forbidden": forbids_calls(template),
        "reasoning": turns.style,
        "thinks": thinks,
        "options_read": read,
        "options_unused": sorted(set(options) - set(read)),
        "end_is_added": turns.end_is_added,
        "stop_closes_thought": turns.stop_closes_thought,
    }


def writes_system(template: Template) -> bool:
    """Whether a system turn stands in the text."""
    messages = make_placeholders(("system", "user", "assistant"))
    return str(messages[0]["content"]) in (template.try_render(messages) or "")


def writes_definitions(template: Template) -> bool:
    """Whether definitions of tools stand in the text."""
    return "retune_probe" in (template.try_render(make_placeholders(("user", "assistant")), tools=[TOOL]) or "")


def writes_calls(template: Template) -> bool:
    """Whether a call of a tool stands in the text."""
    asked, answered = make_placeholders(("user", "assistant"))
    text = template.try_render([asked, *CALLED, answered], tools=[TOOL]) or ""
    return text.count("retune_probe") > (template.try_render([asked, answered], tools=[TOOL]) or "").count(
        "retune_probe"
    )


def forbids_calls(template: Template) -> bool:
    """Whether the sandbox, which is transformers' own, stops the template where a tool is called."""
    try:
        template.render([*make_placeholders(("user",)), *CALLED], tools=[TOOL])
    except TemplateRefusedError as error:
        return error.forbidden
    except RenderingTooLargeError:
        return False
    return False


def written_call_tokens(template: Template) -> list[str]:
    """The control tokens, by their look, that a template writes where a tool is called.

    Whoever adds its others to a vocabulary wants these, too: llama.cpp tells by `<|call|>` that `<|end|>` of gpt-oss ends thoughts.
    """
    text = template.try_render([*make_placeholders(("user",)), *CALLED[:1]], tools=[TOOL]) or ""
    return list(dict.fromkeys(PIPED.findall(text)))
