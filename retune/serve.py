"""`retune serve`: a GGUF file behind an OpenAI-style API, by llama.cpp's own server."""

import datetime as dt
import ipaddress
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retune.project import give_up, project_root
from stages.core.value_differences import show_text

if TYPE_CHECKING:
    from retune.chat.dialogue import Sampling


def serve(
    gguf: Annotated[Path | None, typer.Option(help="This GGUF file. Default: the first of data/gguf.")] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; any but a loopback one opens it to others.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    context: Annotated[int, typer.Option(min=1, help="Tokens of a dialogue with its answer, at most.")] = 4096,
) -> None:
    """Offer a GGUF file over an OpenAI-style API, and as a page to talk to, until Ctrl-C.

    Requests that name no sampling get gguf.sampling of params.yaml. llama.cpp's server reads control tokens in a message
    as such: do not pass on what strangers type (`retune chat` keeps it text).
    """
    root = project_root()
    from retune.chat.dialogue import read_sampling
    from retune.chat.gguf_files import choose_file
    from retune.earlier import warn_of_adapter
    from retune.verdict import warn_of
    from stages.core.errors import StageError

    try:
        (path, lora), sampling = choose_file(root, gguf), read_sampling(root)
    except StageError as error:
        give_up(str(error))
    for warning in filter(None, (warn_of_adapter(root, lora or path), warn_of(root, lora or path))):
        print(show_text(warning), file=sys.stderr, flush=True)
    refuse_unusable(host, port)
    # while the model loads, a signal ends the process at once
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    server = start(path, lora, host, port, context, sampling)
    stop = threading.Event()
    # llama.cpp has put its own handlers there, which end the server and leave the process waiting
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    print(greeting(server.listening_address, lora or path, host), flush=True)
    stop.wait()
    print("ending", flush=True)
    # llama.cpp waits for ever for answers that its own end has cut off; it is one process and has nothing to save
    os._exit(0)


def refuse_unusable(host: str, port: int) -> None:
    """End the program with what is wrong, if nobody could listen at this address; llama.cpp would give no reason."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            # as servers do: a port that a former one has just left is free
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        give_up(
            f"{host}, port {port}: {error.strerror or error}; another program may have it: `--port 0` takes a free one"
        )


def start(path: Path, lora: Path | None, host: str, port: int, context: int, sampling: "Sampling") -> Any:  # noqa: ANN401 - xllamacpp has no types
    """A running server. Ends the program if llama.cpp cannot load the file; its own words are on stderr."""
    import xllamacpp

    threads = len(os.sched_getaffinity(0))
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(path), {(lora or path).stem}
    if lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora))]
    params.hostnames, params.port = [host], port
    params.n_ctx = context
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.sampling.temp, params.sampling.min_p = sampling.temperature, sampling.min_p
    params.sampling.top_k, params.sampling.top_p = 0, 1.0
    # errors alone; and no page of another site may read the answers, nor anybody the requests of others
    params.verbosity = 0
    params.cors_origins, params.cors_origins_explicit, params.cors_credentials = "", True, False
    params.endpoint_slots = False
    if thinks_only_when_told(path):
        params.enable_reasoning = 0
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        give_up(
            f"llama.cpp does not serve {show_text(path.name)} (its words stand above): it is no whole GGUF file, or the memory is too small"
        )


def thinks_only_when_told(path: Path) -> bool:
    """Whether a file's template opens thoughts just because llama.cpp's server says `enable_thinking` where training said nothing.

    Such a server begins an answer with `<think>`, a model that was trained without goes on from something else.
    """
    from stages.chat.rendering import Template, sandbox
    from stages.llama_cpp.gguf_reader import open_gguf, read_metadata

    try:
        source = read_metadata(open_gguf(path), "tokenizer.chat_template")
    except (ValueError, OSError, KeyError, IndexError):
        return False  # the server says what is wrong with it
    compiled = sandbox(dt.datetime.now().astimezone().strftime).from_string(source or "")
    tokens = {name: f"<{name}>" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}

    def render(**told: bool) -> str | None:
        asked = [{"role": "user", "content": "?"}]
        return Template(compiled, {**compiled.globals, **tokens, **told}).try_render(asked, add_generation_prompt=True)

    plain = render()
    return render(enable_thinking=True, thinking=True) != plain == render(enable_thinking=False, thinking=False)


def greeting(address: str, path: Path, host: str) -> str:
    """The address, an example, and a warning where others can reach it."""
    lines = [
        f"{show_text(path.name)} at {address}/v1 (Ctrl-C ends); a page to talk to it: {address}",
        f"""  curl {address}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"messages": [{{"role": "user", "content": "Hello"}}]}}'""",
    ]
    if not is_loopback(host):
        lines.append(
            f"WARNING: {host} is no loopback address: whoever can reach this machine can use the model, without a password"
        )
    return "\n".join(lines)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
