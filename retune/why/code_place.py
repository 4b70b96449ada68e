"""Where two versions of a Python file begin to differ, in words."""

import ast

from retune.accept.same_code import code_difference
from stages.dvc_lock.same_tree import drop_strings

BLOCKS = ("body", "handlers", "cases", "orelse", "finalbody")
"""The fields of a node that hold statements, in the order of the text."""


def locate_change(old: bytes, new: bytes) -> str:
    """`in NAME, line N`, `line N` or `NAME is gone`: the first place where the code differs; empty if only comments and docstrings do."""
    if code_difference(old, new, {}) is None:
        return ""
    try:
        before: ast.AST = drop_strings(ast.parse(old))
        after: ast.AST = drop_strings(ast.parse(new))
    except SyntaxError as error:
        return f"line {error.lineno}, where it is no Python" if error.lineno else "it is no Python"
    names: list[str] = []
    line = 0
    while True:
        olds, news = list_statements(before), list_statements(after)
        texts = [ast.dump(node) for node in olds], [ast.dump(node) for node in news]
        at = next(
            (at for at, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), min(map(len, texts))
        )
        if at == len(olds) == len(news):
            break  # it is in the line that opens the block, or in a docstring that the code reads
        if at == len(news) or (at < len(olds) and texts[1][at] in texts[0][at:]):
            name = getattr(olds[at], "name", None)
            if name:
                return f"`{'.'.join([*names, name])}` is gone"
            line = line_of(news[min(at, len(news) - 1)]) if news else line or 1
            break
        before, after = olds[at] if at < len(olds) else ast.Pass(), news[at]
        line = line_of(after)
        if isinstance(after, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(after.name)
        if dump_head(before) != dump_head(after):
            break
    inside = f"in `{'.'.join(names)}`, " if names else ""
    return f"{inside}line {line}" if line else "in a docstring that the code reads"


def list_statements(node: ast.AST) -> list[ast.AST]:
    """The statements right below a node."""
    return [item for field in BLOCKS for item in getattr(node, field, None) or [] if isinstance(item, ast.AST)]


def dump_head(node: ast.AST) -> str:
    """A node without the statements below it."""
    parts = [f"{name}={dump(value)}" for name, value in ast.iter_fields(node) if name not in BLOCKS]
    return f"{type(node).__name__}({', '.join(parts)})"


def dump(value: object) -> str:
    """A field of a node."""
    if isinstance(value, list):
        return f"[{', '.join(map(dump, value))}]"
    return ast.dump(value) if isinstance(value, ast.AST) else repr(value)


def line_of(node: ast.AST) -> int:
    """The line on which a node begins, its decorators left aside."""
    named: int | None = getattr(node, "lineno", None)
    # of a case the pattern has it
    return named or int(getattr(getattr(node, "pattern", None), "lineno", 0))
