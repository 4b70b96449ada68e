"""What llama.cpp's server makes of requests: its own rendering of the template in a file, and its own tokenization of that.

run     python -m tests.oracle.served_prompts FOLDER

For each FOLDER/*/model.gguf the messages of asked.json beside it (a list of dialogues) are asked as `retune serve` would have them, and
served.json is written: for each dialogue {"text", "ids"}, or {"error"}.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from retune.chat.dialogue import Sampling
from retune.serve import start

CONTEXT = 8_192
Ask = Callable[[list[dict[str, Any]]], dict[str, Any]]


@contextmanager
def open_server(file: Path, context: int = CONTEXT) -> Iterator[Ask]:
    """A function: messages -> {"text": the prompt, "ids": its tokens} of a request with them, or {"error": what the server says}."""
    server = start(file, None, "127.0.0.1", 0, context, Sampling(0.0, 0.0, 64))
    with httpx.Client(base_url=server.listening_address, timeout=60) as client:

        def ask(messages: list[dict[str, Any]]) -> dict[str, Any]:
            rendered = client.post("/apply-template", json={"messages": messages})
            if rendered.is_error:
                return {"error": rendered.json()["error"]["message"]}
            text = rendered.json()["prompt"]
            body = {"content": text, "add_special": True, "parse_special": True}
            return {"text": text, "ids": client.post("/tokenize", json=body).raise_for_status().json()["tokens"]}

        yield ask


def main() -> None:
    """Ask all of them."""
    for file in sorted(Path(sys.argv[1]).glob("*/model.gguf")):
        with open_server(file) as ask:
            found = [ask(messages) for messages in json.loads(file.with_name("asked.json").read_text(encoding="utf-8"))]
        file.with_name("served.json").write_text(json.dumps(found), encoding="utf-8")
    # llama.cpp's servers wait for ever for one another
    os._exit(0)


if __name__ == "__main__":
    main()
