"""A chat template, rendered: jinja2 set up as transformers does it, sandboxed, bounded, and with the date pinned.

Pure: no file is read here. `compile_template` gives a `Template` whose `render` is byte-equal to transformers'
`apply_chat_template(tokenize=False)` with the same variables. What a template counts on is written into its source by
stages/chat/pinning.py, so that whoever loads it later gets the same text without being told.
"""

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stages.core.errors import StageError

Message = Mapping[str, Any]
"""One turn: {"role": ..., "content": text}, and of an assistant that calls tools "tool_calls": [{"type": "function", "function": {"name", "arguments"}}, ...].
Of one that thinks first "reasoning": text; what a template gets in its place: stages/chat/reasoning.py."""

DATE_FORMATS = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d")
"""How `date_string` may be written; the first is Llama 3's own."""

ROOM = 1_000_000
"""Characters that a rendering may hold beyond eight times its contents (JSON escapes make six of one)."""


RESERVED = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "raise_exception",
        "strftime_now",
    }
)
"""Variables that no option may set: they say what is rendered, and where the answer begins."""


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

    def __init__(self, kind: str, *, undefined: bool = False, forbidden: bool = False) -> None:
        super().__init__(kind)
        self.forbidden = forbidden
        """Whether it did what the sandbox forbids, which is transformers' own: such as to append to a list."""
        self.undefined = undefined
        """Whether it needs a variable that nobody gave."""


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
        options: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        """The dialogue as the model sees it. `options`: further variables of this rendering.

        Raises TemplateRefusedError when the template raises, RenderingTooLargeError when its output outgrows the contents.
        """
        size_in = sum([len(message["content"]) for message in messages])
        if tools or any("tool_calls" in message for message in messages):
            size_in += len(json.dumps([tools, [message.get("tool_calls") for message in messages]]))
        limit = ROOM + 8 * size_in
        # as `compiled.new_context`, which makes its dictionary of globals anew each time: half the time of a short dialogue
        variables = {
            **self.variables,
            **(options or {}),
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
                    # counted only here: few rows come so far
                    limit = ROOM + 8 * (size_in + count_beside(messages, options))
                    if size > limit:
                        break
        except (RenderingTooLargeError, MemoryError) as error:
            raise RenderingTooLargeError from error
        except Exception as error:  # a template is a program of somebody else's: it may raise anything
            undefined = isinstance(error, jinja2.UndefinedError)
            forbidden = isinstance(error, jinja2.exceptions.SecurityError)
            raise TemplateRefusedError(type(error).__name__, undefined=undefined, forbidden=forbidden) from error
        if size > limit:
            raise RenderingTooLargeError
        return "".join(pieces)

    def try_render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = False,
    ) -> str | None:
        """As `render`; None where that raises."""
        try:
            return self.render(messages, tools=tools, options=options, add_generation_prompt=add_generation_prompt)
        except (TemplateRefusedError, RenderingTooLargeError):
            return None


def count_beside(messages: Sequence[Message], options: Mapping[str, Any] | None) -> int:
    """Characters of thoughts and options. A thought may stand in several fields; a template writes one of them."""
    return len(json.dumps([options, [message.get("reasoning", message["content"]) for message in messages]]))


def parse_date(date_string: str) -> dt.date:
    """The day that `date_string` names. Raises ValueError that lists the forms."""
    for form in DATE_FORMATS:
        try:
            return dt.datetime.strptime(date_string, form).date()  # noqa: DTZ007 - a day, no moment
        except ValueError:
            continue
    msg = 'must be a day such as "26 Jul 2024" (also "26 July 2024", "2024-07-26")'
    raise ValueError(msg)


def compile_template(
    source: str, special_tokens: Mapping[str, str], date_string: str, options: Mapping[str, Any] | None = None
) -> Template:
    """Compile a chat template.

    `special_tokens`: {"bos_token": "<s>", ...}, as the tokenizer names them. `options`: variables that it gets in every rendering.
    Raises StageError if the source is no template.
    """
    day = parse_date(date_string)
    environment = sandbox(day.strftime)
    try:
        compiled = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        msg = f"the chat template is not valid jinja: {error.message} (line {error.lineno}); mend it, or choose another in template.chat_template"
        raise StageError(msg) from error
    return Template(compiled, {**compiled.globals, **special_tokens, "date_string": date_string, **(options or {})})


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
