"""Definitions of tools as other APIs and datasets spell them, as a chat template takes them; and whether a text shows them already. Pure.

Anthropic writes `input_schema`, Gemini `functionDeclarations` with types in capitals, xLAM bare parameters by name.
"""

import re
from collections.abc import Iterable
from typing import Any

from stages.conversations.row_rules import TOOLS_UNREADABLE, Rejected

DECLARATIONS = ("functionDeclarations", "function_declarations")
SCHEMA_KEYS = ("input_schema", "inputSchema", "parameter_definitions")
"""Other names of `parameters`."""

SCHEMA_WORDS = frozenset({"properties", "required", "anyOf", "oneOf", "allOf", "enum", "additionalProperties"})
TYPES = {
    "str": "string",
    "text": "string",
    "int": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "dict": "object",
    "any": None,
}
"""Python's names of types, by JSON schema's; None: any."""
JSON_TYPES = frozenset({"string", "integer", "number", "boolean", "array", "object", "null"})
SHOWN_BETWEEN = (("<tools>", "</tools>"), ("<functions>", "</functions>"), ("<available_tools>", "</available_tools>"))
"""Between which marks a system's message lists tools."""


def flatten_tools(tools: Iterable[object]) -> list[object]:
    """A list of tools in which each is one function."""
    found: list[object] = []
    for tool in tools:
        name = next((name for name in DECLARATIONS if isinstance(tool, dict) and name in tool), None)
        if name is None or not isinstance(tool, dict):
            found.append(tool)
            continue
        functions = tool[name]
        if not isinstance(functions, list):
            raise Rejected(TOOLS_UNREADABLE)
        found += functions
    return found


def spell_out_schema(tool: dict[str, Any]) -> dict[str, Any]:
    """The same tool, {"type": "function", "function": {...}}, its parameters a JSON schema."""
    function = tool["function"]
    other = next((key for key in SCHEMA_KEYS if key in function), None)
    if other and "parameters" not in function:
        function = {"parameters" if key == other else key: value for key, value in function.items()}
    parameters = function.get("parameters")
    if isinstance(parameters, dict) and parameters:
        if is_bare(parameters):
            parameters = wrap_parameters(parameters)
        elif has_capital_types(parameters):
            parameters = lower_types(parameters)
        elif parameters.get("type") == "dict":
            parameters = {**parameters, "type": "object"}
        function = {**function, "parameters": parameters}
    return {**tool, "function": function}


def is_bare(parameters: dict[str, Any]) -> bool:
    """Whether these are parameters by name, with no schema around them."""
    if isinstance(parameters.get("type"), str | list) or any(key.startswith("$") for key in parameters):
        return False
    if any(key in SCHEMA_WORDS and not is_parameter(value) for key, value in parameters.items()):
        return False
    return all(is_parameter(value) for value in parameters.values())


def is_parameter(value: object) -> bool:
    """Whether this describes one parameter."""
    return isinstance(value, dict) and (isinstance(value.get("type"), str) or isinstance(value.get("description"), str))


def wrap_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Bare parameters as a JSON schema of an object. Required are those that have no default and are not called optional."""
    properties, required = {}, []
    for name, described in parameters.items():
        kind = described.get("type")
        words = [word.strip() for word in kind.split(", ")] if isinstance(kind, str) else []
        needed = described.get("required")
        left = {key: value for key, value in described.items() if key != "required" or not isinstance(value, bool)}
        properties[name] = {**left, **name_type(words[0])} if words else left
        if words and name_type(words[0]) == {}:
            properties[name].pop("type")
        optional = "optional" in words[1:] or "default" in described or words[:1] == ["optional"]
        if needed is True or (not isinstance(needed, bool) and not optional):
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def name_type(kind: str) -> dict[str, Any]:
    """A type by Python's or JSON's name, `List[int]` and the like too, as a schema has it; unknown ones as they are."""
    inside = re.fullmatch(r"(?i)(optional|list|set|tuple|dict)\[(.*)\]", kind.strip())
    if inside and inside[1].lower() == "optional":
        return name_type(inside[2])
    word = (inside[1] if inside else kind).strip().lower()
    named = word if word in JSON_TYPES else TYPES.get(word, kind)
    if named is None:
        return {}
    if not inside or named != "array" or "," in inside[2]:
        return {"type": named}
    return {"type": named, "items": name_type(inside[2])}


def has_capital_types(schema: dict[str, Any]) -> bool:
    """Whether a schema writes its types in capitals, as Gemini's API does."""
    kind = schema.get("type")
    return isinstance(kind, str) and kind.isupper() and kind.lower() in JSON_TYPES


def lower_types(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """The schema with its types in lower case, at every depth."""
    if isinstance(schema, list):
        return [lower_types(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value.lower() if key == "type" and has_capital_types(schema) else lower_types(value)
        for key, value in schema.items()
    }


def shows_tools(text: str, tools: list[dict[str, Any]]) -> bool:
    """Whether a system's text lists all of these tools, {"function": {"name", ...}}, between marks that say so."""
    for opening, closing in SHOWN_BETWEEN:
        _, opened, behind = text.partition(opening)
        listed, closed, _ = behind.rpartition(closing)
        if opened and closed:
            names = set(re.findall(r"""["']name["']\s*:\s*["']([^"']*)["']""", listed))
            return all(tool["function"]["name"] in names for tool in tools)
    return False
