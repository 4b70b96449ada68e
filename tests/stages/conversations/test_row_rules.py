"""Every rule that the code of conversations/ can give is explained, and no other."""

import ast
from pathlib import Path

import pytest

from stages.conversations import row_rules
from tests.project import ROOT

CODE = [
    ROOT / "stages/standardize.py",
    *sorted(path for path in (ROOT / "stages/conversations").glob("*.py") if path.name != "row_rules.py"),
]
RULES = {
    name: value
    for name, value in vars(row_rules).items()
    if name.isupper() and isinstance(value, str) and value not in row_rules.NOTES
}
KEYS_OF_THE_SAME_NAME = {"layout", "contaminated"}
"""Of summary.json."""


def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_every_rule_has_a_meaning_and_every_meaning_a_rule() -> None:
    assert {name.lower() for name in RULES} == set(RULES.values()) == set(row_rules.RULES)
    assert all(row_rules.RULES.values())


def test_every_rule_is_given_somewhere() -> None:
    used = {node.id for path in CODE for node in nodes(path) if isinstance(node, ast.Name)}
    assert set(RULES) <= used


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_rule_is_given_by_its_constant_and_never_by_a_text(path: Path) -> None:
    texts = {node.value for node in nodes(path) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not texts & set(RULES.values()) - KEYS_OF_THE_SAME_NAME
    raised = [node for node in nodes(path) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Rejected"]
    assert not [call for call in raised if any(isinstance(argument, ast.Constant) for argument in call.args)]
