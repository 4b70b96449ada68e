"""Every rule that the code of chat/ can give is explained, and no other."""

import ast
from pathlib import Path

from stages.chat import row_rules
from tests.project import ROOT

CODE = [ROOT / "stages/template.py", *sorted((ROOT / "stages/chat").glob("*.py"))]


def rules_given(path: Path) -> set[str]:
    """The names in capitals that a file takes from row_rules and then uses."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    taken = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "stages.chat.row_rules"
        for name in node.names
    }
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return (taken & used) - {"RULES"}


def test_every_rule_that_the_code_gives_is_explained_and_no_other() -> None:
    constants = {name: value for name, value in vars(row_rules).items() if name.isupper() and isinstance(value, str)}
    assert {name.lower() for name in constants} == set(constants.values()) == set(row_rules.RULES)
    assert set().union(*map(rules_given, CODE)) == set(constants)
    assert all(row_rules.RULES.values())
