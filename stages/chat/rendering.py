"""A chat template, rendered: jinja2 set up as transformers does it, sandboxed, bounded, and with the date pinned.

Pure: no file is read here. `compile_template` gives a `Template` whose `render` is byte-equal to transformers'
`apply_chat_template(tokenize=False)` with the same variables. `pin_template` writes the pinned date and the special
tokens that the template counts on into its source, so that whoever loads it later gets the same text without being told.
"""

import datetime as dt
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jinja2
import jinja2.ext
import jinja2.meta
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stages.core.errors import StageError

Message = Mapping[str, Any]
"""One turn: {"role": ..., "content": text}, and of an assistant that calls tools "tool_calls": [{"type": "function", "function": {"name", "arguments"}}, ...]; of one that thinks first "reasoning": text."""

DATE_FORMATS = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d")
"""How `date_string` may be written; the first is Llama 3's own."""

ROOM = 1_000_000
"""Characters that a rendering may hold beyond eight times its contents (JSON escapes make six of one)."""


class Dialogue(NamedTuple):
    """A conversation as a template gets it, and which of its answers may be trained."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    """What the assistant may call, as JSON schemas; None: nothing."""
    trained: Sequence[bool] | None = None
    """By message, whether an assistant's one may bear loss; None: all of them."""
    options: Mapping[str, Any] | None = None
    """What the row itself asks of the template, over what the params ask; None: nothing."""


class TemplateRefusedError(Exception):
    """The template raised on this dialogue (roles out of turn, a role that it does not know, an error of its own)."""


class RenderingTooLargeError(Exception):
    """The rendering outgrew its bound."""


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` (templates that mark the answers themselves): its body, as it is."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> nodes.Node:
        """The tag's body in a scope of its own."""
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, without `"x" * 10**10`: a template must not fill the memory before its output can be counted."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: object, right: object) -> object:
        """Repeats and powers of ordinary size only."""
        if operator == "**" or (isinstance(left, str | list | tuple) or isinstance(right, str | list | tuple)):
            sizes = [len(side) if isinstance(side, str | list | tuple) else side for side in (left, right)]
            if not all(isinstance(size, int | float) and abs(size) <= ROOM for size in sizes):
                raise RenderingTooLargeError
            if operator == "*" and sizes[0] * sizes[1] > ROOM:  # type: ignore[operator]
                raise RenderingTooLargeError
        return super().call_binop(context, operator, left, right)


@dataclass(frozen=True)
class Template:
    """A compiled chat template with the variables of its tokenizer. Make it with `compile_template`."""

    compiled: jinja2.Template
    variables: Mapping[str, Any]
    """Those that are the same in every rendering: the special tokens, the date, jinja's globals."""

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The dialogue as the model sees it.

        Raises TemplateRefusedError when the template raises, RenderingTooLargeError when its output outgrows the contents.
        """
        size_in = sum([len(message["content"]) for message in messages])
        if tools or any("tool_calls" in message for message in messages):
            size_in += len(json.dumps([tools, [message.get("tool_calls") for message in messages]]))
        limit = ROOM + 8 * size_in
        # as `compiled.new_context`, which makes its dictionary of globals anew each time: half the time of a short dialogue
        variables = {
            **self.variables,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        context = jinja2.runtime.Context(self.compiled.environment, variables, self.compiled.name, self.compiled.blocks)
        pieces: list[str] = []
        size = 0
        try:
            for piece in self.compiled.root_render_func(context):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    break
        except (RenderingTooLargeError, MemoryError) as error:
            raise RenderingTooLargeError from error
        except Exception as error:  # a template is a program of somebody else's: it may raise anything
            raise TemplateRefusedError(type(error).__name__) from error
        if size > limit:
            raise RenderingTooLargeError
        return "".join(pieces)

    def try_render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str | None:
        """As `render`; None where that raises."""
        try:
            return self.render(messages, tools=tools, add_generation_prompt=add_generation_prompt)
        except (TemplateRefusedError, RenderingTooLargeError):
            return None


def parse_date(date_string: str) -> dt.date:
    """The day that `date_string` names. Raises ValueError that lists the forms."""
    for form in DATE_FORMATS:
        try:
            return dt.datetime.strptime(date_string, form).date()  # noqa: DTZ007 - a day, no moment
        except ValueError:
            continue
    msg = 'must be a day such as "26 Jul 2024" (also "26 July 2024", "2024-07-26")'
    raise ValueError(msg)


def compile_template(source: str, special_tokens: Mapping[str, str], date_string: str) -> Template:
    """Compile a chat template.

    `special_tokens`: {"bos_token": "<s>", ...}, as the tokenizer names them. Raises StageError if the source is no template.
    """
    day = parse_date(date_string)
    environment = sandbox(day.strftime)
    try:
        compiled = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        msg = f"the chat template is not valid jinja: {error.message} (line {error.lineno}); mend it, or choose another in template.chat_template"
        raise StageError(msg) from error
    return Template(compiled, {**compiled.globals, **special_tokens, "date_string": date_string})


def sandbox(strftime_now: Callable[[str], str]) -> BoundedEnvironment:
    """Jinja's environment as transformers configures it, but with a clock that stands still."""

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = BoundedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def strip_header(source: str) -> str:
    """The template without the comment that opens it (that of our own files: what differs from whom, and why)."""
    return re.sub(r"\A\{#.*?#\}\n?", "", source, count=1, flags=re.DOTALL)


def pin_template(source: str, date_string: str, *, set_tokens: Mapping[str, str], write_bos: bool) -> str:
    """The source with what it needs from outside written into its head, where it needs it.

    - the date: `date_string` if nobody gives one, and `strftime_now` as a macro that knows the formats asked for;
    - `set_tokens`: special tokens whose value in the tokenizer is no longer the one that the template was written for;
    - `write_bos`: the BOS, for a template that leaves it to the tokenizer.

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
        head.append(
            f"{{%- if date_string is not defined %}}{{%- set date_string = {json.dumps(date_string)} %}}{{%- endif %}}"
        )
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
