"""A GGUF file of full precision -> a quantized one, with llama.cpp's own kernels and no compiler; what tensor_types.py does not cover by llama-quantize.

Tensor by tensor, and within one by groups of rows, on several threads: ctypes gives up Python's lock during the C call,
and each row is quantized by itself, so the number of threads changes no byte.
"""

import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.core.errors import StageError
from stages.llama_cpp.gguf_reader import open_gguf, read_architecture, read_hparams
from stages.llama_cpp.imatrix_file import Importance, read_importance
from stages.llama_cpp.library import load_library
from stages.llama_cpp.programs import find_or_build, read_build
from stages.llama_cpp.quantization_names import QUANTIZATIONS, WITHOUT_IMATRIX
from stages.llama_cpp.quantize_by_program import run_llama_quantize
from stages.llama_cpp.tensor_types import TensorType, choose_types, covers

log = logging.getLogger("retune")

QUANTIZATION_VERSION = 2
"""ggml's GGML_QNT_VERSION: of the layout of the blocks."""
VALUES_AT_ONCE = 1 << 21
"""Values that one thread converts at once: 8 MiB as float32."""

Overrides = Mapping[str, str | int | bool]


def quantize(
    source: Path, target: Path, quantization: str, overrides: Overrides, threads: int, imatrix: Path | None = None
) -> dict[str, TensorType]:
    """Write `target` with the tensors of `source` in the types of a quantization, and all of its metadata.

    Args:
        source: a GGUF file with F32, F16 or BF16 tensors.
        target: the file to write.
        quantization: a key of `quantization_names.QUANTIZATIONS`.
        overrides: metadata in place of, or beside, the source's. Strings, unsigned integers or booleans.
        threads: for the kernels. They change no byte.
        imatrix: the file of an importance matrix, left aside by types that have no use for one; None: without.

    Returns:
        {tensor: its type, and the type that the mix wanted}, in the order of the file.

    Raises:
        StageError: values that no kernel can take (NaN, infinity), or llama-quantize is needed and not to be had.
    """
    reader = open_gguf(source)
    known = QUANTIZATIONS[quantization]
    imatrix = None if known.default in WITHOUT_IMATRIX else imatrix
    importance = read_importance(imatrix) if imatrix else None
    own = {
        "general.quantization_version": QUANTIZATION_VERSION,
        "general.file_type": known.file_type,
        **(importance.metadata if importance else {}),
    }
    if covers(quantization, read_hparams(reader)):
        return quantize_here(reader, target, quantization, overrides, own, threads, importance)
    with TemporaryDirectory(dir=target.parent) as folder:
        made = run_llama_quantize(source, quantization, imatrix, threads, Path(folder))
        tensors = {tensor.name: (tensor.shape.tolist(), tensor.tensor_type) for tensor in made.reader.tensors}
        write_file(target, reader, overrides, own, tensors, (tensor.data for tensor in made.reader.tensors))
    kinds = {chosen.wanted for chosen in made.types.values()}
    if known.default not in kinds:
        log.warning("%s: no tensor of this model takes the type %s", target.name, known.default)
    return dict(made.types)


def name_quantizer(quantization: str, source: Path) -> str:
    """What `quantize` makes a file with: `xllamacpp`, or llama-quantize and its build."""
    if covers(quantization, read_hparams(open_gguf(source))):
        return "xllamacpp"
    return f"llama-quantize b{read_build(find_or_build('llama-quantize'))}"


def quantize_here(
    reader: Any,  # noqa: ANN401 - gguf.GGUFReader
    target: Path,
    quantization: str,
    overrides: Overrides,
    own: Overrides,
    threads: int,
    importance: Importance | None,
) -> dict[str, TensorType]:
    """`quantize` with the kernels of the wheel and the mixes of this project."""
    import gguf

    tensors = {tensor.name: tensor for tensor in reader.tensors}
    types = choose_types(
        quantization,
        {name: (tensor.shape[::-1].tolist(), tensor.tensor_type.name) for name, tensor in tensors.items()},
        read_hparams(reader),
        imatrix=importance is not None,
    )
    kinds = {name: gguf.GGMLQuantizationType[chosen.kind] for name, chosen in types.items()}
    weights = importance.columns if importance else {}
    with ThreadPoolExecutor(threads) as pool:
        data = (
            tensors[name].data
            if tensors[name].tensor_type == kinds[name]
            else convert_tensor(tensors[name], kinds[name], weights.get(name), pool)
            for name in types
        )
        shapes = {name: (tensors[name].shape.tolist(), kinds[name]) for name in types}
        write_file(target, reader, overrides, own, shapes, data)
    return types


def write_file(
    target: Path,
    reader: Any,  # noqa: ANN401 - gguf.GGUFReader
    overrides: Overrides,
    own: Overrides,
    tensors: Mapping[str, tuple[list[int], Any]],
    data: Iterable[NDArray[np.generic]],
) -> None:
    """A GGUF file with another's metadata (see `copy_metadata`) and the tensors {name: (shape, the length of a row first; type)}."""
    import gguf

    writer = gguf.GGUFWriter(target, read_architecture(reader))
    copy_metadata(reader, writer, overrides, own)
    for name, (shape, kind) in tensors.items():
        # The writer only notes the shape; `raw_dtype` says what the bytes are.
        writer.add_tensor_info(name, shape[::-1], np.dtype(np.float16), stored_bytes(kind, shape), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for part in data:
        writer.write_tensor_data(part)
    writer.close()


def copy_metadata(reader: Any, writer: Any, overrides: Overrides, own: Overrides) -> None:  # noqa: ANN401 - gguf's reader and writer
    """Every key of the source in its order and type, overridden values in their places, new keys after them, `own` last (as llama-quantize has them)."""
    import gguf

    left = dict(overrides)
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF.") or field.name in own:
            continue  # the writer writes the first two itself
        if field.name in left:
            add_metadata(writer, {field.name: left.pop(field.name)})
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    add_metadata(writer, {**left, **own})


def add_metadata(writer: Any, says: Overrides) -> None:  # noqa: ANN401 - gguf.GGUFWriter
    """Keys and values, each in the type that it has here."""
    import gguf

    kinds = {str: gguf.GGUFValueType.STRING, bool: gguf.GGUFValueType.BOOL, int: gguf.GGUFValueType.UINT32}
    for key, value in says.items():
        writer.add_key_value(key, value, kinds[type(value)])


def stored_bytes(kind: int, shape: list[int]) -> int:
    """Bytes of a tensor in a type; `shape` with the length of a row first, as a GGUF file has it."""
    rows = int(np.prod(shape[1:], dtype=np.int64))
    return int(load_library().ggml_row_size(int(kind), shape[0])) * rows


def convert_tensor(
    tensor: Any,  # noqa: ANN401 - gguf.ReaderTensor
    kind: int,
    importance: NDArray[np.float32] | None,
    pool: ThreadPoolExecutor,
) -> NDArray[np.uint8]:
    """The tensor's bytes in another type, shape [rows, bytes of a row]; `importance`: of its columns.

    Raises StageError where the values are no numbers: the kernels would write garbage without a word.
    """
    columns = int(tensor.shape[0])
    if importance is not None and importance.shape != (columns,):
        raise StageError(
            f"the importance matrix has {importance.size} columns for {tensor.name}, which has {columns}; it is another model's"
        )
    weights = None if importance is None else importance.ctypes.data
    rows = int(np.prod(tensor.shape[1:], dtype=np.int64))
    row_bytes = int(load_library().ggml_row_size(int(kind), columns))
    result = np.empty((rows, row_bytes), dtype=np.uint8)
    stored = tensor.data.reshape(rows, -1)
    step = max(1, VALUES_AT_ONCE // columns)

    def convert(start: int) -> bool:
        values = np.ascontiguousarray(as_float32(stored[start : start + step]))
        if not np.isfinite(values).all():
            return False
        part = result[start : start + step]
        written = load_library().ggml_quantize_chunk(
            int(kind), values.ctypes.data, part.ctypes.data, 0, len(values), columns, weights
        )
        return bool(
            written == part.nbytes and load_library().ggml_validate_row_data(int(kind), part.ctypes.data, part.nbytes)
        )

    if not all(pool.map(convert, range(0, rows, step))):
        raise StageError(
            f"{tensor.name} holds values that are no finite numbers, so it cannot be quantized; train or merge again"
        )
    return result


def as_float32(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    """Rows of a 16-bit or 32-bit tensor as float32, exactly; gguf gives BF16 as bytes."""
    if stored.dtype == np.uint8:
        return (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32, copy=False)
