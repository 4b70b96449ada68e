"""Carry out what the values of new params decide in a file's syntax tree, so that two versions can be compared as they work at these values."""

import ast
import builtins
import operator
from collections.abc import Callable, Mapping
from typing import Any

Key = tuple[str, ...]
"""The path of a param in its section."""
Function = ast.FunctionDef | ast.AsyncFunctionDef

COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}


def simplify(tree: ast.Module, values: Mapping[Key, object], neutral: set[Key]) -> ast.Module:
    """The tree with `params.KEY` replaced by its value, and what that decides carried out."""
    outer = set(dir(builtins)).union(*(defined_names(node) for node in tree.body))
    Simplifier(values, neutral, outer).visit(tree)
    return tree


class Simplifier(ast.NodeTransformer):
    """Carries out what literals decide. Each rule keeps the meaning for every input."""

    def __init__(self, values: Mapping[Key, object], neutral: set[Key], outer: set[str]) -> None:
        """Take the keys to replace, those of them that may be dropped where they are passed on by keyword, and the names of the module."""
        self.values = values
        self.neutral = neutral
        self.outer = outer

    def without_trace(self, *nodes: ast.AST) -> bool:
        """Whether code that is never reached may go: even there, a `yield` makes a generator and an assignment hides an outer name."""
        for node in (item for top in nodes for item in ast.walk(top)):
            if isinstance(node, ast.Yield | ast.YieldFrom | ast.Await | ast.Global | ast.Nonlocal | ast.NamedExpr):
                return False
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in self.outer:
                return False
            if (
                isinstance(node, ast.stmt)
                and not isinstance(node, ast.Assign | ast.AnnAssign)
                and defined_names(node) & self.outer
            ):
                return False
        return True

    def key(self, node: ast.expr | None) -> Key | None:
        """The key that `params.A.B` reads, if it is one to replace."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        found = tuple(parts)
        return found if isinstance(node, ast.Name) and node.id == "params" and found in self.values else None

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """`params.KEY` is its value."""
        key = self.key(node)
        if key is not None and isinstance(node.ctx, ast.Load):
            return ast.parse(repr(self.values[key]), mode="eval").body
        self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """A keyword that passes on a neutral value is not there."""
        node.keywords = [
            keyword for keyword in node.keywords if not (keyword.arg and self.key(keyword.value) in self.neutral)
        ]
        self.generic_visit(node)
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        """Neither is a dict's entry."""
        pairs = [
            (key, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if not (key and self.key(value) in self.neutral)
        ]
        node.keys, node.values = [key for key, _ in pairs], [value for _, value in pairs]
        self.generic_visit(node)
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """A comparison of two literals is a truth."""
        self.generic_visit(node)
        if len(node.ops) != 1:
            return node
        left, right, kind = literal_value(node.left), literal_value(node.comparators[0]), node.ops[0]
        if left is None or right is None:
            return node
        if isinstance(kind, ast.Is | ast.IsNot):
            if not any(value is None or isinstance(value, bool) for value in (left[0], right[0])):
                return node  # the identity of other literals is an accident
            return ast.Constant((left[0] is right[0]) == isinstance(kind, ast.Is))
        try:
            return ast.Constant(bool(COMPARISONS[type(kind)](left[0], right[0])))
        except TypeError:
            return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """`not` of a literal."""
        self.generic_visit(node)
        value = literal_value(node.operand)
        return ast.Constant(not value[0]) if isinstance(node.op, ast.Not) and value else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """A literal in `and` or `or` either says nothing or ends the chain."""
        self.generic_visit(node)
        kept: list[ast.expr] = []
        for number, item in enumerate(node.values):
            value = literal_value(item)
            if value is None:
                kept.append(item)
            elif bool(value[0]) != isinstance(node.op, ast.And) and self.without_trace(*node.values[number + 1 :]):
                kept.append(item)
                break
            elif bool(value[0]) != isinstance(node.op, ast.And):
                return node
            elif number == len(node.values) - 1:
                kept.append(item)
        node.values = kept
        return kept[0] if len(kept) == 1 else node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """The branch that a literal takes."""
        self.generic_visit(node)
        value = literal_value(node.test)
        if value is None:
            return node
        taken, left = (node.body, node.orelse) if value[0] else (node.orelse, node.body)
        return taken if self.without_trace(left) else node

    def visit_If(self, node: ast.If) -> ast.stmt | list[ast.stmt]:
        """The block that a literal takes; with none, nothing."""
        self.generic_visit(node)
        value = literal_value(node.test)
        if value is None:
            return node
        taken, left = (node.body, node.orelse) if value[0] else (node.orelse, node.body)
        return (taken or ast.Pass()) if self.without_trace(*left) else node


def literal_value(node: ast.expr) -> tuple[Any] | None:
    """The value of a literal, in a tuple, since None is one; None if it is no literal."""
    try:
        return (ast.literal_eval(node),)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def defined_names(node: ast.stmt) -> set[str]:
    """The names that a top-level statement makes, where that is plain to see."""
    if isinstance(node, Function | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
