"""Whether two versions of a Python file do the same work: a proof by their syntax trees, or the reason why there is none.

Harmless is what the interpreter does not see (comments, layout) or nobody computes with (docstrings, bare strings); and, for params
that are new, what their present values switch off: `params.KEY` is replaced by its value in both versions, what is then decided
(`if`, `and`, `or`, `not`, `x if c else y`, comparisons of literals) is carried out, and new functions that nobody calls any more are
dropped. Where an author says that passing a value equals not passing it (`Field(json_schema_extra={"neutral": 0.0})`), a keyword
or dict entry that is just `params.KEY` is dropped, too, as long as the value is that one. What is left must be equal.
"""

import ast
import sys
from collections.abc import Mapping

from retune.accept.simplify import Function, Key, defined_names, literal_value, simplify
from stages.dvc_lock.same_tree import drop_strings, reads_docstrings

# ways to read a params model without naming the key: with one of them a new key may show in the outputs whatever its value
WHOLE = {"model_dump", "model_dump_json", "model_fields", "model_fields_set", "model_copy", "__dict__"}
WHOLE_CALLS = {"getattr", "vars", "dict", "repr"}


def code_difference(old: bytes, new: bytes, added: Mapping[Key, object]) -> str | None:
    """None if both versions do the same work, else where they differ.

    Args:
        old: the file as it was when the outputs were made.
        new: the file as it is.
        added: params that are new since then, by their path in the section, with their values.
    """
    try:
        before, after = ast.parse(old), ast.parse(new)
    except SyntaxError as error:
        return f"it is not Python: {error.msg}, line {error.lineno}"
    neutral = {key for key in added if key[-1] in find_neutral(after, added)}
    if added:
        before, after = simplify(before, added, neutral), simplify(after, added, neutral)
        drop_new_fields(before, after, {key[-1] for key in added})
        drop_unused(before, after)
    if not any(reads_docstrings(tree) for tree in (before, after)):
        before, after = drop_strings(before), drop_strings(after)
    if ast.dump(before) == ast.dump(after):
        return None
    return difference_place(before, after)


def whole_use(code: bytes) -> int | None:
    """The line on which a file reads params as a whole (`model_dump`, `getattr` ...), or None."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute) and node.attr in WHOLE and is_params(node.value):
            return node.lineno
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in WHOLE_CALLS
            and any(map(is_params, node.args))
        ):
            return node.lineno
        if isinstance(node, ast.FormattedValue) and ast.unparse(node.value) in {"params", "self.params"}:
            return node.lineno
    return None


def is_params(node: ast.expr) -> bool:
    """Whether an expression is `params`, `self.params` or `params.PART`."""
    while isinstance(node, ast.Attribute):
        if node.attr == "params":
            return True
        node = node.value
    return isinstance(node, ast.Name) and node.id == "params"


def find_neutral(tree: ast.Module, added: Mapping[Key, object]) -> set[str]:
    """The new params whose values are those that their fields declare as neutral: `Field(json_schema_extra={"neutral": VALUE})`."""
    found = set()
    values = {key[-1]: value for key, value in added.items()}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in values:
            for part in ast.walk(node.annotation):
                extra = (
                    literal_value(part.value)
                    if isinstance(part, ast.keyword) and part.arg == "json_schema_extra"
                    else None
                )
                value = values[node.target.id]
                if extra and isinstance(extra[0], dict) and "neutral" in extra[0]:
                    declared = extra[0]["neutral"]
                    if type(declared) is type(value) and declared == value:
                        found.add(node.target.id)
    return found


def drop_new_fields(before: ast.Module, after: ast.Module, names: set[str]) -> None:
    """Take the fields of new params out of the params models of `after`; in place. A field alone computes nothing."""
    old = {node.name: field_names(node) for node in before.body if isinstance(node, ast.ClassDef)}
    for node in after.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Params") and node.name in old:
            gone = names - old[node.name]
            node.body = [
                item
                for item in node.body
                if not (isinstance(item, ast.AnnAssign) and field_name(item) in gone and item.value is None)
            ]


def field_names(node: ast.ClassDef) -> set[str]:
    """The names of a class's annotated fields."""
    return {field_name(item) for item in node.body if isinstance(item, ast.AnnAssign)}


def field_name(node: ast.AnnAssign) -> str:
    """The name that an annotation is for."""
    return node.target.id if isinstance(node.target, ast.Name) else ""


def drop_unused(before: ast.Module, after: ast.Module) -> None:
    """Take out of `after` what is new in it, does nothing when the file is imported, and is used by nobody; in place."""
    old = set().union(*(defined_names(node) for node in before.body))
    modules = {node.module for node in before.body if isinstance(node, ast.ImportFrom)}
    while True:
        kept = [node for node in after.body if not is_unused(node, after, old, modules)]
        if len(kept) == len(after.body):
            return
        after.body = kept


def is_unused(node: ast.stmt, tree: ast.Module, old: set[str], modules: set[str | None]) -> bool:
    """Whether a statement of `tree` makes only new names that no other statement reads. An import loses its unused new names; in place."""
    others = (item for other in tree.body if other is not node for item in ast.walk(other))
    taken = old | {item.id for item in others if isinstance(item, ast.Name)}
    if isinstance(node, ast.ImportFrom) and (node.module in modules or is_standard(node.module)):
        node.names = [alias for alias in node.names if (alias.asname or alias.name) in taken]
        return not node.names
    if isinstance(node, ast.Import) and all(is_standard(alias.name) for alias in node.names):
        node.names = [alias for alias in node.names if (alias.asname or alias.name.split(".", 1)[0]) in taken]
        return not node.names
    return is_inert(node) and not defined_names(node) & taken


def is_standard(module: str | None) -> bool:
    """Whether importing a module is of no effect: one of Python's own."""
    return module is not None and module.split(".", 1)[0] in sys.stdlib_module_names


def is_inert(node: ast.stmt) -> bool:
    """Whether a statement only makes a name: a plain function, or a literal's name."""
    if isinstance(node, Function):
        defaults = [*node.args.defaults, *(item for item in node.args.kw_defaults if item)]
        return not node.decorator_list and all(literal_value(item) for item in defaults)
    return (
        isinstance(node, ast.Assign | ast.AnnAssign)
        and node.value is not None
        and literal_value(node.value) is not None
        and bool(defined_names(node))
    )


def difference_place(before: ast.Module, after: ast.Module) -> str:
    """Where two trees differ: a function or class that was there before, else the first line."""
    old = {ast.dump(node) for node in before.body}
    known = set().union(*(defined_names(node) for node in before.body))
    changed = [node for node in after.body if ast.dump(node) not in old]
    if changed:
        node = next((node for node in changed if defined_names(node) & known), changed[0])
        name = getattr(node, "name", None)
        return (f"`{name}` (line {node.lineno})" if name else f"line {node.lineno}") + " is not the code that ran"
    new = {ast.dump(node) for node in after.body}
    gone = next((node for node in before.body if ast.dump(node) not in new), None)
    return f"`{getattr(gone, 'name', 'a statement')}` is gone" if gone else "the order of its statements is another"
