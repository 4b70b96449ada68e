"""llama.cpp's compiled library, called through ctypes.

The wheel of xllamacpp links the whole of llama.cpp into its extension module and exports the plain C API. Calling that gives
exact logits for given ids; the `Server` class of the same wheel offers text in and top-n log-probabilities out, through a
queue of worker threads, so it can show neither a doubled BOS nor a KL divergence. The one fragile thing about a C API without
its header is the layout of structs, so next to none is relied on:

- `llama_model_params` and `llama_context_params` are opaque buffers, larger than the real ones: the library fills them with
  its defaults, and gets them back. Both are last arguments, and both ABIs that wheels exist for pass such a struct in memory,
  so the spare bytes are never looked at;
- of the context's params only the first four numbers are touched, and only if they hold the documented defaults;
- `llama_batch` (a count and six pointers) has kept its form since 2023, and the tests compare logits with PyTorch's.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

from stages.core.errors import StageError

OPAQUE_BYTES = 2048
"""More than `llama_model_params` and `llama_context_params` take (about 100 and 200 bytes)."""
CONTEXT_DEFAULTS = (512, 2048, 512, 1)
"""n_ctx, n_batch, n_ubatch, n_seq_max: the first four numbers of the default `llama_context_params`."""
LOG_LEVEL_ERROR = 4

LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class OpaqueParams(ctypes.Structure):
    """A params struct of llama.cpp, whose fields stay llama.cpp's affair."""

    _fields_ = (("words", ctypes.c_uint32 * (OPAQUE_BYTES // 4)),)


class LlamaBatch(ctypes.Structure):
    """`llama_batch`: the tokens of one decoding step."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.c_void_p),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.c_void_p),
        ("seq_id", ctypes.c_void_p),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


INT, FLOAT, BOOL, SIZE, TEXT, POINTER = (
    ctypes.c_int32,
    ctypes.c_float,
    ctypes.c_bool,
    ctypes.c_size_t,
    ctypes.c_char_p,
    ctypes.c_void_p,
)
DEQUANTIZERS = {
    kind: f"dequantize_row_{kind[:-1].lower()}K" if kind.endswith("_K") else f"dequantize_row_{kind.lower()}"
    for kind in (
        "Q1_0", "Q2_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4", "TQ1_0", "TQ2_0",
        "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
    )
}  # fmt: skip
"""{type: the function that gives its values back}."""
SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LogCallback, POINTER]),
    "llama_model_default_params": (OpaqueParams, []),
    "llama_context_default_params": (OpaqueParams, []),
    "llama_model_load_from_file": (POINTER, [TEXT, OpaqueParams]),
    "llama_model_free": (None, [POINTER]),
    "llama_init_from_model": (POINTER, [POINTER, OpaqueParams]),
    "llama_free": (None, [POINTER]),
    "llama_n_ctx": (ctypes.c_uint32, [POINTER]),
    "llama_n_batch": (ctypes.c_uint32, [POINTER]),
    "llama_set_n_threads": (None, [POINTER, INT, INT]),
    "llama_get_memory": (POINTER, [POINTER]),
    "llama_memory_clear": (None, [POINTER, BOOL]),
    "llama_decode": (INT, [POINTER, LlamaBatch]),
    "llama_adapter_lora_init": (POINTER, [POINTER, TEXT]),
    "llama_set_adapters_lora": (INT, [POINTER, ctypes.POINTER(POINTER), SIZE, ctypes.POINTER(FLOAT)]),
    "llama_get_logits_ith": (ctypes.POINTER(FLOAT), [POINTER, INT]),
    "llama_model_get_vocab": (POINTER, [POINTER]),
    "llama_model_chat_template": (TEXT, [POINTER, TEXT]),
    "llama_model_n_params": (ctypes.c_uint64, [POINTER]),
    "llama_vocab_n_tokens": (INT, [POINTER]),
    "llama_vocab_bos": (INT, [POINTER]),
    "llama_vocab_eos": (INT, [POINTER]),
    "llama_vocab_get_add_bos": (BOOL, [POINTER]),
    "llama_vocab_is_eog": (BOOL, [POINTER, INT]),
    "llama_tokenize": (INT, [POINTER, TEXT, INT, ctypes.POINTER(INT), INT, BOOL, BOOL]),
    "llama_token_to_piece": (INT, [POINTER, INT, ctypes.c_char_p, INT, INT, BOOL]),
    "ggml_quantize_chunk": (SIZE, [INT, POINTER, POINTER, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, POINTER]),
    "ggml_row_size": (SIZE, [INT, ctypes.c_int64]),
    "ggml_blck_size": (ctypes.c_int64, [INT]),
    "ggml_validate_row_data": (BOOL, [INT, POINTER, SIZE]),
    **{name: (None, [POINTER, POINTER, ctypes.c_int64]) for name in DEQUANTIZERS.values()},
}

errors_logged: list[str] = []
"""The error lines that llama.cpp has logged since they were last read: the reason of a failed load stands only there."""


def keep_errors(level: int, text: bytes, _user: int | None) -> None:
    """Keep llama.cpp's errors for our message and drop the rest of its log, which is hundreds of lines a load."""
    if level == LOG_LEVEL_ERROR:
        errors_logged.append(text.decode("utf-8", "replace").strip())


kept_alive = LogCallback(keep_errors)
"""llama.cpp holds the callback's address for as long as the process lives."""


@cache
def load_library() -> ctypes.CDLL:
    """The library with its signatures set, its log silenced, ready for use.

    Raises StageError if xllamacpp is missing or no longer exports the C API as this module knows it.
    """
    spec = importlib.util.find_spec("xllamacpp")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    files = sorted(folder.glob("xllamacpp*.so")) if folder else []
    if not files:
        raise StageError(
            "the package xllamacpp is not installed here, or without its compiled library; `make setup` installs it"
        )
    loaded = ctypes.CDLL(str(files[0]))
    for name, (result, arguments) in SIGNATURES.items():
        try:
            function = getattr(loaded, name)
        except AttributeError as error:
            raise StageError(
                f"this xllamacpp does not export {name}; `make setup` installs the version that this was written for"
            ) from error
        function.restype = result
        function.argtypes = arguments
    loaded.llama_log_set(kept_alive, None)
    loaded.llama_backend_init()
    found = tuple(loaded.llama_context_default_params().words[: len(CONTEXT_DEFAULTS)])
    if found != CONTEXT_DEFAULTS:
        raise StageError(
            f"this xllamacpp lays out llama_context_params in another way (found {found}, known {CONTEXT_DEFAULTS}); "
            "`make setup` installs the version that this was written for"
        )
    return loaded


def take_errors() -> str:
    """What llama.cpp has logged as errors since the last call, in one line; empty if nothing."""
    text = "; ".join(line for line in errors_logged if line)
    errors_logged.clear()
    return text
