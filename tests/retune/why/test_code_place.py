import pytest

from retune.why.code_place import locate_change

CODE = '''\
"""A file."""
import os


class Row:
    """A row."""

    def size(self):
        """Its size."""
        return 1


def first(rows):
    """The first."""
    for row in rows:
        if row:
            return row
    return None


def last(rows):
    return rows[-1]
'''


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("return 1", "return 2", "in `Row.size`, line 10"),
        ("            return row", "            return [row]", "in `first`, line 17"),
        ("if row:", "if not row:", "in `first`, line 16"),
        ("def last(rows)", "def last(rows, n=1)", "in `last`, line 21"),
        ("import os", "import sys", "line 2"),
        ("def last(rows):\n    return rows[-1]\n", "", "`last` is gone"),
        ("    return None\n", "", "in `first`, line 15"),
        (
            "    def size(self):\n",
            "    def more(self):\n        return 2\n\n    def size(self):\n",
            "in `Row.more`, line 8",
        ),
        ("import os\n", "", "line 4"),
        ("import os", "import os os", "line 2, where it is no Python"),
        ('"""The first."""', '"""The very first."""', ""),
        ("import os", "import os  # not used", ""),
        ("    return None\n", "    pass\n    return None\n", ""),
    ],
)
def test_place_is_the_first_statement_that_differs(old, new, place):
    assert old in CODE
    assert locate_change(CODE.encode(), CODE.replace(old, new).encode()) == place


def test_docstring_that_the_code_reads_is_a_change():
    code = '"""Help."""\nprint(__doc__)\n'
    assert locate_change(code.encode(), code.replace("Help", "More help").encode()) != ""
