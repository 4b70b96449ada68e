"""data/gguf: one GGUF file for each quantization, what was found about it, and a Modelfile for Ollama.

- `NAME-QUANT.gguf` ...: NAME as in params, QUANT as asked (`demo-q4_k_m.gguf`);
- `checks.json`: Checks, below;
- `Modelfile`: of the first quantization.
"""

from typing import TypedDict

CHECKS = "checks.json"
MODELFILE = "Modelfile"


class Quality(TypedDict):
    """Figures on held-out rows; `audit` judges them. Six significant digits."""

    perplexity: float
    """exp of the mean loss over the labelled tokens."""
    exact_match: float | None
    """Share of greedy answers (given the true history) that are the true ones, token for token, and end there; null where none was asked."""


class FileQuality(Quality):
    """A file's figures, beside those of the merged model."""

    kl: float
    """Mean Kullback-Leibler divergence from the merged model over the labelled tokens, in nats."""
    top_1_agreement: float
    """Share of labelled tokens where both find the same token most likely."""
    answers_equal: int
    """Greedy answers that are the merged model's own, token for token."""


class FileChecks(TypedDict):
    """What was found about one file. That it is written at all says that every structural check passed."""

    quantization: str
    bytes: int
    sha256: str
    tensors: int
    types: dict[str, int]
    """{type: tensors of it}."""
    fallbacks: dict[str, str]
    """{tensor: "WANTED -> TYPE"} where the mix's type does not fit the length of a row."""
    pre_tokenizer: str | None
    """llama.cpp's name of the splitting rule; null for a tokenizer that has none."""
    texts_equal: int
    """Texts whose ids are the tokenizer's own: a fixed list, and the rows'."""
    dialogues_equal: int
    """Renderings of the chat template whose ids, with BOS as llama.cpp's server adds it, are the tokenizer's own."""
    adds_bos: bool
    quality: FileQuality


class Checks(TypedDict):
    """checks.json."""

    files: dict[str, FileChecks]
    """{file name: what was found}, as many as quantizations."""
    merged: Quality
    """The merged model's own figures on the same rows."""
    merged_dtype: str
    """In which the merged model was run."""
    adapter_sha256: str
    """Of the adapter's weights that the merged model was made with, as data/adapter has them now."""
    split: str
    """Where the rows are from: heldout, or train where nothing is held out."""
    rows: list[str]
    """Ids of the rows."""
    tokens: int
    """Labelled tokens in them."""
    answers: int
    """Greedy answers that were asked for."""
    stop: list[str]
    """Texts that end an answer."""
    stops_by: str
    """`token`: one control token, known to the files as an end. `text`: the vocabulary has none, so a runner must stop at the text."""
    modelfile_template: bool
    """Whether the Modelfile has a template that was proven equal."""
