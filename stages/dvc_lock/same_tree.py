"""What of a Python file the interpreter computes with: its syntax tree without comments, docstrings and bare strings."""

import ast


def is_same_tree(old: bytes, new: bytes) -> bool:
    """Whether two versions of a file differ in nothing but comments, layout and docstrings that it does not compute with."""
    try:
        before, after = ast.parse(old), ast.parse(new)
    except (SyntaxError, ValueError):
        return False
    if not any(map(reads_docstrings, (before, after))):
        before, after = drop_strings(before), drop_strings(after)
    return ast.dump(before) == ast.dump(after)


def drop_strings(tree: ast.Module) -> ast.Module:
    """The tree without docstrings and other strings that stand as statements; in place."""
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, None)
            if isinstance(block, list):
                kept = [item for item in block if not (is_string(item) or isinstance(item, ast.Pass))]
                # a body cannot be empty, so `pass` and a docstring are equally nothing
                setattr(
                    node, field, kept or ([ast.Pass()] if field == "body" and not isinstance(node, ast.Module) else [])
                )
    return tree


def reads_docstrings(tree: ast.Module) -> bool:
    """Whether the file computes with its docstrings."""
    names = (getattr(node, "id", None) or getattr(node, "attr", None) for node in ast.walk(tree))
    return any(name == "__doc__" for name in names)


def is_string(node: ast.AST) -> bool:
    """Whether a statement is a string and nothing else."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
