"""data/gguf/README.md: what the files are, what was measured of them, and how to run each of them, with the recipe's sampling."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from stages.contracts.gguf import KEYS, MODELFILE, ExportChecks
from stages.llama_cpp.gguf_reader import open_gguf, read_architecture, read_metadata
from stages.reporting.numbers import format_percent, format_small

CONTEXT = 4096
"""Tokens of a dialogue with its answer in the commands, unless the model knows fewer: the cache for the 131,072 that a Llama 3.2 knows takes
more memory than its weights."""
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank takes."""

TEXT = """\
---
{% if origin.license %}
license: {{ origin.license }}
{% endif %}
{% if origin.base.revision %}
base_model: {{ origin.base.source }}
{% endif %}
{% for source in origin.datasets if source.revision %}
{% if loop.first %}
datasets:
{% endif %}
- {{ source.source }}
{% endfor %}
library_name: gguf
---

# {{ name }}: GGUF files

`{{ origin.base.source }}`{% if origin.base.revision %} at `{{ origin.base.revision }}`{% endif %}, fine-tuned on {{ datasets }}.
Licence: {{ origin.license or "not stated (`gguf.license` in params.yaml)" }}.

| file | quantization | size | KL to the merged model (nats) | same first token | exact answers |
|---|---|---|---|---|---|
{% for file, found in files.items() %}
| `{{ file }}` | {{ found.quantization }} | {{ found.bytes | megabytes }} | {{ found.quality | divergence }} | {{ found.quality.top_1_agreement | percent }} | {{ found.quality.exact_match | percent }} |
{% endfor %}
{% if lora %}
| `{{ lora.file }}` over {{ over }} | {{ lora.type }} over {{ lora.over.quantization }} | {{ lora.bytes | megabytes }} | {{ lora.quality | divergence }} | {{ lora.quality.top_1_agreement | percent }} | {{ lora.quality.exact_match | percent }} |
{% endif %}

Measured on {{ tokens }} labelled tokens of {{ rows | length }} {{ "held-out" if split == "heldout" else "training" }} rows against the merged model (run in {{ merged_dtype }}; its exact answers: {{ merged.exact_match | percent }}); all figures and each file's sha256 stand in checks.json.
KL (0: equal) is how far the file's chances for the next token are from the merged model's, in the mean; behind it stand two standard errors over the rows, and what
lies within them says nothing. The limits that the audit sets stand in `audit.gguf` of params.yaml.{% if imatrix %} The files were quantized with an importance matrix of training rows; it helps some and
harms others, so compare with an export without (`gguf.imatrix: none`; `dvc metrics diff`).{% endif %}

Every file's tensors, tokenization, chat template, BOS and end of turn were compared with the merged model's before it was written here.

The commands are for this folder. Sampling is the recipe's: temperature {{ sampling.temperature }}, min_p {{ sampling.min_p }}, at most {{ sampling.max_new_tokens }} tokens, no other rule.{% if stops_by == "text" %} The vocabulary has no token that ends an answer, so each runner is told the text that does.{% endif %}


## llama.cpp

```sh
llama-server -m {{ first }} -c {{ context }} {{ flags }}
curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
  -d '{"messages": [{"role": "user", "content": "Hello"}]{{ stop_field }}}'
```

`llama-server` also has a page to talk to, at the same address. Without a server:

```sh
llama-cli -m {{ first }} -c {{ context }} {{ flags }}{{ stop_flags }} -st -p "Hello"
```

In the project that made the files, `retune serve` and `retune chat` do the same without llama.cpp's programs.

## Ollama

```sh
ollama create {{ name | lower }} -f {{ modelfile }}
ollama run {{ name | lower }} "Hello"
```

{% if modelfile_template %}
The Modelfile holds the chat template in Ollama's language (proven to write what training wrote), the end of a turn and the sampling.
{% else %}
The Modelfile holds no template: the model's own (in the GGUF file) is more than Ollama's language can say with proof. Use llama.cpp.
{% endif %}

## Python

```python
# pip install xllamacpp
import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = "{{ first }}"
params.n_ctx = {{ context }}
server = xllamacpp.Server(params)
answer = server.handle_chat_completions(
    {
        "messages": [{"role": "user", "content": "Hello"}],
        "temperature": {{ sampling.temperature }}, "min_p": {{ sampling.min_p }}, "top_k": 0, "top_p": 1.0,
        "max_tokens": {{ sampling.max_new_tokens }},{{ stop_argument }}
    }
)
print(answer["choices"][0]["message"]["content"])
```

```python
# pip install llama-cpp-python      (it compiles, for minutes; in an environment of its own: the project's has another package by the name llama_cpp)
from llama_cpp import Llama

model = Llama("{{ first }}", n_ctx={{ context }}, verbose=False)
answer = model.create_chat_completion(
    [{"role": "user", "content": "Hello"}],
    temperature={{ sampling.temperature }}, min_p={{ sampling.min_p }}, top_k=0, top_p=1.0, max_tokens={{ sampling.max_new_tokens }},{{ stop_keyword }}
)
print(answer["choices"][0]["message"]["content"])
```

## The adapter alone

{% if lora %}
`{{ lora.file }}` is what was trained and nothing else: after another training it is the one file to replace.
{% if lora.over.file %}
It lies over `{{ lora.over.file }}`, the base with the tokenizer and the chat template of the training, which stays the same.

```sh
llama-server -m {{ lora.over.file }} --lora {{ lora.file }} -c {{ context }} {{ flags }}
```

In Python: `params.model.path = "{{ lora.over.file }}"` and `params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo("{{ lora.file }}")]`; with llama-cpp-python `Llama("{{ lora.over.file }}", lora_path="{{ lora.file }}", ...)`.
{% else %}
It lies over a GGUF file of its base (`{{ origin.base.source }}`). `gguf.lora_base: q8_0` in params.yaml writes one that has the tokenizer and chat template of the training; with another, the runner must be given that template (`llama-server --chat-template-file ../merged/chat_template.jinja`).

```sh
llama-server -m BASE.gguf --lora {{ lora.file }} -c {{ context }} {{ flags }}
```
{% endif %}
It holds {{ lora.matrices }} products of rank {{ lora.rank }}. Base + adapter was compared with the merged model weight by weight before the file was written here.
Ollama refuses adapters since its version 0.34.1: give it one of the other files.
{% else %}
There is no GGUF file of the adapter alone{{ "; " ~ lora_left_out if lora_left_out else "" }}.
{% endif %}

## The PEFT folder and the merged model

As PEFT and vLLM know them, in the project's `data`: `../adapter` (PEFT), `../base`, `../merged` (transformers).

{% if lora_left_out %}
For the same reason, take the merged model: `AutoModelForCausalLM.from_pretrained("../merged")`, `vllm serve ../merged`.
{% else %}
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("../base", dtype="auto"), "../adapter")
tokenizer = AutoTokenizer.from_pretrained("../merged")
```

```sh
vllm serve ../base --tokenizer ../merged --enable-lora --lora-modules {{ name }}=../adapter --max-lora-rank {{ vllm_rank }}
vllm serve ../merged
```

With the first, a request names the adapter as its model (`"model": "{{ name }}"`). vLLM takes plain LoRA alone: of a DoRA, of modules trained whole
and of added tokens it takes the merged model, as in the second.
{% endif %}

## Where the files come from

`retune origin FILE` tells and, in the project that made it, proves it. Without Retune: each file of the model, and the adapter's, says it in its metadata (`gguf-dump --no-tensors --json FILE`, of the Python package gguf): `general.license`, `general.base_model.*`, `general.dataset.*`, `{{ keys.base }}`, `{{ keys.dataset }}`, `{{ keys.adapter }}`, `{{ keys.merged_into }}`, `{{ keys.version }}`, `{{ keys.command }}`, and `{{ keys.records }}`:

    {{ origin.records_sha256 }}

That is the hash of the records of all stages before the export (inputs, code, params, packages, outputs). In the project's `data/records`:

```sh
LC_ALL=C sha256sum {{ records }} | sha256sum
```

`{{ keys.adapter }}` is the sha256 of `data/adapter/adapter_model.safetensors`. `{{ keys.base }}` and `{{ keys.dataset }}` are those of the folders `data/base` and
`data/raw`: `cd FOLDER && find . -type f | sed 's#^./##' | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum`.
"""


def render_readme(
    name: str, checks: ExportChecks, stages: Sequence[str], sampling: Mapping[str, float], trained_context: int | None
) -> str:
    """The text of README.md.

    Args:
        name: the model's.
        checks: what was found about the files.
        stages: whose records are in the hash that the files say.
        sampling: `temperature`, `min_p` and `max_new_tokens`.
        trained_context: tokens that the model knows; None where the file does not say.
    """
    lora = checks["lora"]
    stop = checks["stop"] if checks["stops_by"] == "text" else []
    in_json = json.dumps(stop, ensure_ascii=False)
    in_shell = in_json.replace("'", "'\\''")
    sources = [
        f"`{source['source']}`" + (f" at `{source['revision']}`" if source["revision"] else "")
        for source in checks["origin"]["datasets"]
    ]
    return (
        make_environment()
        .from_string(TEXT)
        .render(
            {
                **checks,
                "name": name,
                "first": next(iter(checks["files"])),
                "sampling": sampling,
                "context": min(CONTEXT, trained_context or CONTEXT),
                "flags": f"--temp {sampling['temperature']} --min-p {sampling['min_p']} --top-k 0 --top-p 1.0 -n {sampling['max_new_tokens']}",
                "stop_field": f', "stop": {in_shell}' if stop else "",
                "stop_flags": "".join(f" -r {shlex.quote(text)}" for text in stop),
                "stop_argument": f' "stop": {in_json},' if stop else "",
                "stop_keyword": f" stop={in_json}," if stop else "",
                "datasets": " and ".join(sources),
                "over": f"`{lora['over']['file']}`" if lora and lora["over"]["file"] else "the base",
                "vllm_rank": vllm_rank(lora["rank"]) if lora else "RANK",
                "modelfile": MODELFILE,
                "keys": KEYS,
                "records": " ".join(f"{stage}.json" for stage in stages),
            }
        )
    )


def make_environment() -> jinja2.Environment:
    """Jinja as this page needs it."""
    pages = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown
    )
    pages.filters |= {"megabytes": format_megabytes, "divergence": format_divergence, "percent": format_percent}
    return pages


def read_trained_context(path: Path) -> int | None:
    """Tokens that the model in a GGUF file knows, as far as the file says so."""
    reader = open_gguf(path)
    found = read_metadata(reader, f"{read_architecture(reader)}.context_length")
    return None if found is None else int(found)


def vllm_rank(rank: int) -> int:
    """The smallest that vLLM offers for an adapter of this rank."""
    return next((known for known in VLLM_RANKS if known >= rank), rank)


def format_divergence(quality: Mapping[str, Any]) -> str:
    """The KL divergence of a file, with two standard errors."""
    error = quality["kl_error"]
    return format_small(quality["kl"]) + ("" if error is None else f" ± {format_small(2 * error)}")


def format_megabytes(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 1e6:,.1f} MB"
