"""data/gguf: one GGUF file for each quantization, the adapter alone, what was found about them, and how to run them.

- `NAME-QUANT.gguf` ...: NAME as in params, QUANT as asked (`demo-q4_k_m.gguf`);
- `NAME-lora-TYPE.gguf`: the adapter alone, if it is asked for and can be one; `NAME-base-QUANT.gguf`: a base to lay it over, if asked for;
- `imatrix.gguf`: the importance matrix, if one is asked for, in llama.cpp's format;
- `checks.json`: ExportChecks, below;
- `Modelfile`: for Ollama, of the first quantization (Ollama 0.34.1 and later take no adapter);
- `README.md`: how to run them.

Every GGUF file says in its own metadata where it comes from. gguf's keys: `general.name`, `general.license`,
`general.base_model.0.*` and `general.dataset.N.*` (of a hub id OWNER/NAME: `organization`, `name`, and the revision as `version`; of a
local source its `name`). Beside them KEYS. A base alone says nothing of the training, so that it is the same file after the next one:
no dataset, no adapter, no merge, no records.
"""

from typing import TypedDict

CHECKS = "checks.json"
MODELFILE = "Modelfile"
README = "README.md"

KEYS = {
    # what the file is: one of KINDS
    "kind": "retune.kind",
    # the version of Retune that wrote it
    "version": "retune.version",
    # what the adapter was folded into: merge.into
    "merged_into": "retune.merge.into",
    # sha256 of data/base as the record of fetch_model has it
    "base": "retune.base.sha256",
    # sha256 of data/raw, which holds the rows of all datasets, as the record of fetch_data has it
    "dataset": "retune.dataset.sha256",
    # sha256 of data/adapter/adapter_model.safetensors
    "adapter": "retune.adapter.sha256",
    # sha256 of the records of all stages before the export, made so: in data/records, with these stages' names, which `inputs` of gguf.json
    # has, in alphabetical order in the place of STAGES: `for stage in STAGES; do sha256sum $stage.json; done | sha256sum`
    "records": "retune.records.sha256",
    # the command that wrote the file
    "command": "retune.command",
}
"""Keys of the metadata that gguf has no name for."""
KINDS = {
    "model": "fine-tuned model",
    "lora": "adapter alone, to lay over its base",
    "base": "base alone, without the training",
    "imatrix": "importance matrix of the fine-tuned model, to quantize with; no model",
}


class OriginSource(TypedDict):
    """A model or a dataset."""

    source: str
    """A hub id OWNER/NAME, or what params.yaml calls a local one."""
    revision: str | None


class Origin(TypedDict):
    """What made the files: their metadata in short."""

    version: str
    """Of Retune."""
    license: str | None
    base: OriginSource
    base_sha256: str
    datasets: list[OriginSource]
    dataset_sha256: str
    adapter_sha256: str
    """Of the adapter's weights that the merged model was made with, as data/adapter has them now."""
    merged_into: str
    records_sha256: str
    command: str


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
    kl_error: float | None
    """Standard error of `kl`, in nats: how far another drawing of as many rows would be from it. Over rows, since the tokens of one are alike;
    null with a single row."""
    top_1_agreement: float
    """Share of labelled tokens where both find the same token most likely."""
    answers_equal: int
    """Greedy answers that are the merged model's own, token for token."""


class FileChecks(TypedDict):
    """What was found about one file. That it is written at all says that every structural check passed."""

    quantization: str
    quantizer: str
    """What made it: `xllamacpp` (its kernels, by this project), or `llama-quantize` with its build."""
    imatrix: bool
    """Whether the importance matrix had a part in it: types that have no use for one leave it aside."""
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


class BaseFile(TypedDict):
    """The base that the adapter was measured over."""

    file: str | None
    """Its name here; null for the conversion of data/base in scratch, which is not kept."""
    quantization: str
    bytes: int
    sha256: str


class LoraChecks(TypedDict):
    """What was found about the adapter's file. That it is written at all says that base + adapter is the merged model, weight by weight, rounding aside."""

    file: str
    type: str
    bytes: int
    sha256: str
    rank: int
    scaling: float
    """What the adapter's product is multiplied by: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
    matrices: int
    """Matrices of the base that it changes."""
    over: BaseFile
    quality: FileQuality
    """Of base and adapter together, against the merged model."""


class ImatrixChecks(TypedDict):
    """The importance matrix, `imatrix.gguf`, in llama.cpp's format."""

    file: str
    rows: int
    """Training rows that it was computed over, each a sequence of its own."""
    tokens: int
    sha256: str


class ExportChecks(TypedDict):
    """checks.json."""

    files: dict[str, FileChecks]
    """{file name: what was found}, as many as quantizations."""
    imatrix: ImatrixChecks | None
    """null: none was asked for."""
    lora: LoraChecks | None
    """The adapter alone; null where there is none."""
    lora_left_out: str | None
    """Why there is none."""
    origin: Origin
    merged: Quality
    """The merged model's own figures on the same rows."""
    merged_dtype: str
    """In which the merged model was run."""
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
