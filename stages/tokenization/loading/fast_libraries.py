"""The libraries that make tokens faster than the reference, as stages/tokenization/loading/fast.py uses them.

They live apart from the environment: `make setup` installs requirements-apart.lock into `apart/` beside the environment's own
packages, without what those depend on. A newer release of `tokenizers` is refused by transformers, and of gigatoken only the
compiled part is wanted.
"""

import importlib
import importlib.util
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy.typing as npt

APART = "apart"
"""The folder below sys.prefix that holds them."""

ROOM = 256 * 2**20
"""Bytes that a process may grow by until a tokenizer that remembers all words is made anew, 0.4 s for a vocabulary of 128,000."""
LOOK_EVERY = 8_000_000
"""Characters after which the memory is looked at."""

Encode = Callable[[str], npt.NDArray[Any]]
"""A text -> its ids, of any integer type; special tokens are recognized, none is added. One text at a time takes less processor
time than batches, and the threads that some libraries start for those do not survive a fork."""


class Loaded(NamedTuple):
    """A tokenizer of a fast library."""

    encode: Encode
    encode_plain: Encode | None
    """The same with special tokens in a text left as text; None: the library cannot do that."""


class Library(NamedTuple):
    """A fast library."""

    package: str
    """Its folder in `apart/`, and its name in requirements-apart.lock."""
    module: str
    """Its name in this process."""
    open: Callable[[ModuleType, bytes], Loaded]
    """The module and a tokenizer.json -> a tokenizer. Raises whatever the library raises if it cannot carry it."""

    def path(self) -> Path:
        """Where it is, if it is installed."""
        return Path(sys.prefix) / APART / self.package / "__init__.py"

    def load(self, source: bytes) -> Loaded:
        """A tokenizer of `source`, a tokenizer.json. Raises what the library raises if it cannot be loaded or cannot read it."""
        library = sys.modules.get(self.module)
        if library is None or library.__file__ != str(self.path()):
            library = import_as(self.module, self.path())
        return self.open(library, source)


def open_gigatoken(library: ModuleType, source: bytes) -> Loaded:
    """Byte-level and SentencePiece BPE."""
    compiled = importlib.import_module(f"{library.__name__}.gigatoken_rs")
    return Loaded(Renewed(lambda: compiled.load_hf_json(source).encode), None)


class Renewed:
    """A tokenizer that remembers every word that it has seen, made anew when that has taken ROOM.

    gigatoken 0.10 does: half a gigabyte after 60 MB of words that are all different, and never less. (Later ones bound it.)
    """

    def __init__(self, load: Callable[[], Encode]) -> None:
        self.load = load
        self.encode = load()
        self.before = resident_bytes()
        self.characters = 0

    def __call__(self, text: str) -> npt.NDArray[Any]:
        """The ids of a text."""
        self.characters += len(text)
        if self.characters > LOOK_EVERY:
            self.look()
        return self.encode(text)

    def look(self) -> None:
        """Begin anew if the process has grown by ROOM, whatever by: what else may have made it grow is not made smaller by that."""
        self.characters = 0
        if resident_bytes() > self.before + ROOM:
            self.encode = self.load()
            self.before = max(self.before, resident_bytes())


def resident_bytes() -> int:
    """Bytes that this process has in memory; where that cannot be asked, the most there have been."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def open_tokenizers(library: ModuleType, source: bytes) -> Loaded:
    """All kinds, but for some that end in an error."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:  # it reads files only
        file.write(source)
        file.flush()
        encode = library.Tokenizer.from_file(file.name).encode
    options = {"add_special_tokens": False, "padding": None, "truncation": None}
    return Loaded(
        lambda text: encode(text, encode_special_tokens=False, **options).ids_array,
        lambda text: encode(text, encode_special_tokens=True, **options).ids_array,
    )


LIBRARIES = (
    Library("gigatoken", "gigatoken", open_gigatoken),
    # `tokenizers` is the reference's name
    Library("tokenizers", "retune_tokenizers_apart", open_tokenizers),
)
"""The fastest first."""


def import_as(name: str, path: Path) -> ModuleType:
    """Import a package from its `__init__.py` under a name that may be another than its own."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
