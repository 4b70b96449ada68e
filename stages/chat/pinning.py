"""What a chat template counts on, written into its source: date, special tokens, options, a longer generation prompt; pure.

So whoever loads the template later gets the text that was trained, without being told anything.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import jinja2.meta
from jinja2 import nodes

from stages.chat.rendering import parse_date, sandbox

ASKED = "retune_asked"
"""The template's variable for whether an answer is asked for, where its own generation prompt is replaced."""


def strip_header(source: str) -> str:
    """The template without the comment that opens it (that of our own files: what differs from whom, and why)."""
    return re.sub(r"\A\{#.*?#\}\n?", "", source, count=1, flags=re.DOTALL)


def pin_template(
    source: str,
    date_string: str,
    *,
    set_tokens: Mapping[str, str],
    write_bos: bool,
    options: Mapping[str, Any] | None = None,
) -> str:
    """The source with what it needs from outside written into its head, where it needs it.

    - the date: `date_string`, and `strftime_now` as a macro that knows the formats asked for;
    - `set_tokens`: special tokens whose value in the tokenizer is no longer the one that the template was written for;
    - `write_bos`: the BOS, for a template that leaves it to the tokenizer;
    - `options`: the values that the template's own variables have if nobody gives others.

    Each line of the head is one block and its line end, which trim_blocks takes away: the template's first line stays one.
    """
    tree = sandbox(str).parse(source)
    needed = jinja2.meta.find_undeclared_variables(tree)
    head: list[str] = []
    for name, token in sorted(set_tokens.items()):
        if name in needed:
            head.append(f"{{%- set {name} = {json.dumps(token, ensure_ascii=False)} %}}")
    # a template that declares date_string when it is not defined still reads it, so the names are looked up in the tree
    names = {node.name for node in tree.find_all(nodes.Name)}
    if "date_string" in names:
        # whatever is given: llama.cpp's server gives every template today's
        head.append(f"{{%- set date_string = {json.dumps(date_string)} %}}")
    for name, value in sorted((options or {}).items()):
        if name in names:
            head.append(f"{{%- if {name} is not defined %}}{{%- set {name} = {spell_value(value)} %}}{{%- endif %}}")
    if "strftime_now" in names:
        head.append(clock_macro(tree, date_string))
    if write_bos:
        head.append("{{- bos_token }}{%- set bos_written = true %}")
    return "".join(line + "\n" for line in head) + source


def clock_macro(tree: nodes.Template, date_string: str) -> str:
    """A jinja macro `strftime_now` that answers the formats of the template's own calls with the pinned day."""
    day = parse_date(date_string)
    forms = {
        call.args[0].value
        for call in tree.find_all(nodes.Call)
        if isinstance(call.node, nodes.Name)
        and call.node.name == "strftime_now"
        and call.args
        and isinstance(call.args[0], nodes.Const)
    }
    answers = "".join(
        f"{{%- if form == {json.dumps(form)} %}}{{{{- {json.dumps(day.strftime(form))} }}}}{{%- endif %}}"
        for form in sorted(forms)
    )
    known = json.dumps(sorted(forms))
    other = f"{{%- if form not in {known} %}}{{{{- {json.dumps(date_string)} }}}}{{%- endif %}}"
    return f"{{%- macro strftime_now(form) %}}{answers}{other}{{%- endmacro %}}"


def spell_value(value: object) -> str:
    """A JSON value as jinja writes it: its constants have names of their own."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{spell_value(key)}: {spell_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(spell_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def find_options(source: str, known: set[str]) -> list[str]:
    """The variables that a template reads, that it does not set itself everywhere, and that are not `known`."""
    tree = sandbox(str).parse(source)
    names = list(tree.find_all(nodes.Name))
    read = {node.name for node in names if node.ctx == "load"}
    # jinja counts what is set in one branch and read behind it, too
    own = {node.name for node in names if node.ctx == "store"}
    arguments = {node.name for node in names if node.ctx == "param"}
    return sorted(((jinja2.meta.find_undeclared_variables(tree) - own) | (read & asked_for(tree))) - arguments - known)


def asked_for(tree: nodes.Template) -> set[str]:
    """The variables of which the template asks whether somebody gave them (`is defined`)."""
    tests = [test for test in tree.find_all(nodes.Test) if test.name in ("defined", "undefined")]
    return {test.node.name for test in tests if isinstance(test.node, nodes.Name)}


def extend_prompt(source: str, gap: str) -> str:
    """The template with `gap` behind its generation prompt."""
    # an expression and no block: lstrip_blocks would take white space before a block away; the last line end is none of the text
    return f"{source.removesuffix(chr(10))}{{{{ {json.dumps(gap, ensure_ascii=False)} if add_generation_prompt else '' }}}}"


def replace_prompt(source: str, prompt: str) -> str:
    """The template with `prompt` in place of its generation prompt, whatever that is."""
    head = f"{{%- set {ASKED} = add_generation_prompt %}}\n{{%- set add_generation_prompt = false %}}\n"
    return f"{head}{source.removesuffix(chr(10))}{{{{ {json.dumps(prompt, ensure_ascii=False)} if {ASKED} else '' }}}}"
