"""What runners say to a template by themselves, and training did not: held firm in the template that is shipped; pure.

llama.cpp's server gives every template today's date and `enable_thinking: true`. A default in the template's head would give way to them,
and the model would begin its answers from a prompt that it has never seen.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import nodes

from stages.chat.pinning import spell_value
from stages.chat.rendering import Template, sandbox
from stages.chat.turns import make_placeholders

TOLD = ("enable_thinking", "thinking")
"""What runners tell a template without being asked."""
NOBODY = "retune_nobody_gives_this"
"""A variable without a value: jinja has no other word for none at all."""


def hold_values(source: str, template: Template, options: Mapping[str, Any]) -> str:
    """The source with a head that sets what it reads: `options` to their values, and what runners say by themselves to nothing.

    The latter only where it would change the text: elsewhere people may go on to say it. Not for rows with options of their own, which it would
    overrule.

    Args:
        source: a template with its date and special tokens pinned.
        template: the same, compiled.
        options: of the params.
    """
    names = {node.name for node in sandbox(str).parse(source).find_all(nodes.Name)}
    firm = {name: spell_value(value) for name, value in options.items() if name in names}
    firm |= dict.fromkeys(find_told(template, names - options.keys()), NOBODY)
    return "".join(f"{{%- set {name} = {value} %}}\n" for name, value in sorted(firm.items())) + source


def find_told(template: Template, names: Iterable[str]) -> list[str]:
    """Of TOLD, what changes the generation prompt of a template that reads `names`, if somebody says that it is so."""
    asked = make_placeholders(("user",))
    plain = template.try_render(asked, add_generation_prompt=True)
    return [
        name
        for name in TOLD
        if name in names and template.try_render(asked, add_generation_prompt=True, options={name: True}) != plain
    ]
