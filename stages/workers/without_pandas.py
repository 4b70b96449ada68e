"""Libraries that can do without pandas, made to: they import it, a quarter of a second, whether it is used or not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder

import pyarrow as pa


class NoPandas(MetaPathFinder):
    """Finds that there is no pandas."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 - the protocol's
        """Raise for pandas as Python does, leave all else to the others."""
        if name == "pandas":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@contextmanager
def hide_pandas() -> Iterator[None]:
    """For what is imported meanwhile there is no pandas, unless it has been imported before. Others may import it afterwards."""
    finder = NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def leave_pandas_out() -> None:
    """Let pyarrow believe that there is no pandas: it looks for it at the first array made of a list or of numbers.

    For commands that never turn a table into a data frame.
    """
    with hide_pandas():
        pa.array([0])
