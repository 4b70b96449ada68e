import textwrap

import pytest

from retune.accept.same_code import code_difference, whole_use

BASE = """
from typing import Annotated
from pydantic import Field
class TrainParams(Params):
    rate: float
def train(rows, params):
    for row in rows:
        step(row, rate=params.rate)
    return done(rows)
"""


def encoded(text):
    return textwrap.dedent(text).encode()


def edited(*edits):
    text = BASE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return text.encode()


FIELD = ("    rate: float\n", "    rate: float\n    clip: float | None\n")
GUARDED = (
    "    return done",
    "    if params.clip is not None:\n        rows = clipped(rows, params.clip)\n    return done",
)
CLIPPED = ("def train", "def clipped(rows, most):\n    return [min(row, most) for row in rows]\ndef train")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x = 1", "# why\nx = 1  # what"),
        ("def f():\n    return 1", 'def f():\n    """One."""\n    return 1'),
        ("class P:\n    a: int", 'class P:\n    a: int\n    """The a."""'),
        ("def f():\n    pass", 'def f():\n    """Nothing."""'),
        ("x = (1,\n  2)", "x = (1, 2)"),
        ('"""Module."""\nimport os', "import os"),
    ],
)
def test_code_that_differs_in_what_nobody_computes_with_is_the_same(old, new):
    assert code_difference(old.encode(), new.encode(), {}) is None
    assert code_difference(new.encode(), old.encode(), {}) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = 'b'"),
        ("x = 'a'", "x = b'a'"),
        ("a()\nb()", "b()\na()"),
        ("import a\nimport b", "import b\nimport a"),
        ("def f(a): pass", "def f(a, b=1): pass"),
        ("f(a)", "f(a=a)"),
        ("if a:\n    b()", "b()"),
        ("def f():\n    'a'\nprint(f.__doc__)", "def f():\n    'b'\nprint(f.__doc__)"),
        ("@cached\ndef f(): return 1", "def f(): return 1"),
    ],
)
def test_code_that_differs_in_anything_else_is_not(old, new):
    assert code_difference(old.encode(), new.encode(), {})
    assert code_difference(new.encode(), old.encode(), {})


def test_code_that_is_no_python_is_not_the_same():
    assert "not Python" in code_difference(b"x = 1", b"x = (", {})


def test_a_field_alone_computes_nothing():
    assert code_difference(edited(), edited(FIELD), {("clip",): None}) is None


def test_a_field_with_its_imports_computes_nothing():
    field = (
        "    rate: float\n",
        "    rate: float\n    clip: Annotated[Literal['a'] | None, Field(gt=0)]\n    '''Clips.'''\n",
    )
    imports = ("import Annotated", "import Annotated, Literal")
    assert code_difference(edited(), edited(field, imports), {("clip",): None}) is None


def test_a_new_param_that_is_off_is_the_same_code():
    assert code_difference(edited(), edited(FIELD, GUARDED, CLIPPED), {("clip",): None}) is None


def test_a_new_param_that_is_on_is_not():
    assert "`train`" in code_difference(edited(), edited(FIELD, GUARDED, CLIPPED), {("clip",): 0.5})


def test_a_new_param_that_is_off_does_not_excuse_another_edit():
    other = ("done(rows)", "done(rows[1:])")
    assert "`train`" in code_difference(edited(), edited(FIELD, GUARDED, CLIPPED, other), {("clip",): None})


@pytest.mark.parametrize(
    ("guard", "value"),
    [
        ("if params.clip:\n        log(rows)", 0),
        ("if params.clip > 0:\n        log(rows)", 0.0),
        ("if not params.clip:\n        pass\n    else:\n        log(rows)", False),
        ("if params.clip and rows:\n        log(rows)", False),
        ("if params.clip == 'some' or params.clip == 'all':\n        log(rows)", "none"),
        ("if params.clip in ('some', 'all'):\n        log(rows)", "none"),
        ("if params.deep.clip:\n        log(rows)", False),
    ],
)
def test_guards_that_a_value_decides_are_carried_out(guard, value):
    key = ("deep", "clip") if "deep" in guard else ("clip",)
    new = edited(("    return done", f"    {guard}\n    return done"))
    assert code_difference(edited(), new, {key: value}) is None


def test_a_choice_that_a_value_decides_is_carried_out():
    new = edited(("done(rows)", "done(rows if params.clip is None else rows[: params.clip])"))
    assert code_difference(edited(), new, {("clip",): None}) is None


@pytest.mark.parametrize(
    "block",
    [
        "if params.clip:\n        yield rows",
        "if params.clip:\n        len = 1",
        "if params.clip:\n        import clipped as train",
        "if params.clip:\n        global rows",
    ],
)
def test_code_that_acts_without_being_reached_is_not_dropped(block):
    assert code_difference(edited(), edited(("    return done", f"    {block}\n    return done")), {("clip",): None})


def test_a_value_that_is_passed_on_is_not_proven():
    new = edited(FIELD, ("rate=params.rate)", "rate=params.rate, clip=params.clip)"))
    assert code_difference(edited(), new, {("clip",): None})


def test_a_value_that_the_author_declares_neutral_may_be_passed_on():
    field = (
        "    rate: float\n",
        "    rate: float\n    clip: Annotated[float, Field(json_schema_extra={'neutral': 0.0})]\n",
    )
    new = edited(field, ("rate=params.rate)", "rate=params.rate, clip=params.clip)"))
    assert code_difference(edited(), new, {("clip",): 0.0}) is None
    assert code_difference(edited(), new, {("clip",): 0.1})
    assert code_difference(edited(), new, {("clip",): False})


def test_a_new_function_that_is_decorated_is_not_dropped():
    decorated = ("def train", "@register\ndef other(rows):\n    return rows\ndef train")
    assert code_difference(edited(), edited(FIELD, decorated), {("clip",): None})


def test_a_new_import_with_effects_is_not_dropped():
    assert code_difference(
        edited(), edited(FIELD, ("from pydantic", "import unsloth\nfrom pydantic")), {("clip",): None}
    )


def test_an_old_function_that_is_gone_is_a_difference():
    assert "`clipped`" in code_difference(edited(CLIPPED), edited(), {("clip",): None})


@pytest.mark.parametrize(
    "code",
    [
        "params.model_dump()",
        "vars(params)",
        "getattr(params, key)",
        "f'{params}'",
        "x = self.params.__dict__",
        "dict(params.lora)",
    ],
)
def test_whole_use_of_params_is_found(code):
    assert whole_use(f"\n{code}".encode()) == 2


def test_whole_use_is_not_what_reads_a_key_or_passes_params_on():
    assert whole_use(encoded("work(rows, params)\nx = f'{params.rate}'\ny = other.model_dump()")) is None
