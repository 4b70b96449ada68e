"""data/base and data/tokenizer: a base model and its tokenizer as they came. Written by `fetch_model`, read by the model stages."""

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
GENERATION_CONFIG = "generation_config.json"

SOURCE = "source.json"
"""In data/base: where model and tokenizer come from: {source, revision, files: {base/NAME or tokenizer/NAME: sha256}}."""

MERGED_MARKER = "merged.json"
"""In a folder that `merge` has written: what was folded into what, a `stages.contracts.merged.Marker`. A folder that holds it is no
base for the same adapter."""

TOKENIZER = "tokenizer.json"

TOKENIZER_FILES = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
"""What data/tokenizer may hold; tokenizer.json is always there."""
