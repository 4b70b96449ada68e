"""`retune serve` with the demo's base as a GGUF file, asked over HTTP on loopback."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from retune.serve import greeting, is_loopback, thinks_only_when_told
from retune.verdict import NO_VERDICT
from tests.oracle.small_gguf import write_small_gguf
from tests.retune.spoken import NAME
from tests.stages.chat.test_encoding import byte_level

REPO = Path(__file__).parents[2]
STORY = "Ivan has the golden hat. Ivan is in the tower. Where is Ivan?"


@contextmanager
def server(root: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """(the process, the address that it printed)."""
    code = f"import sys; sys.path.insert(0, {str(REPO)!r}); from retune.__main__ import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", code, "serve", "--port", "0", *arguments],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert NAME in line, line + process.communicate(timeout=20)[1]
        yield process, line.rpartition(": ")[2].strip()
    finally:
        process.kill()
        process.wait()


def ask(address: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": STORY}], "temperature": 0, "max_tokens": 32, **more}
    answered = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)
    assert answered.status_code == 200, answered.text
    found: dict[str, Any] = answered.json()
    return found


@pytest.fixture(scope="module")
def address(spoken: Path) -> Iterator[str]:
    with server(spoken) as (_, address):
        yield address


@pytest.fixture(scope="module")
def expected(spoken: Path) -> str:
    """The greedy answer by the runtime that the export is measured with."""
    from retune.chat.dialogue import prompt_ids
    from retune.chat.gguf_model import open_gguf

    with open_gguf(spoken / "data/gguf" / NAME, 512, 1) as opened:
        ids = prompt_ids(opened, [{"role": "user", "content": STORY}])
        return opened.model.text(list(opened.model.generate(ids, 32)))


@pytest.mark.slow
def test_answer_over_http_is_the_greedy_answer_of_the_file(address: str, expected: str) -> None:
    answered = ask(address)
    assert "tower" in expected
    assert answered["choices"][0]["message"] == {"role": "assistant", "content": expected}
    assert answered["choices"][0]["finish_reason"] == "stop"
    assert answered["model"] == Path(NAME).stem


@pytest.mark.slow
def test_streamed_answer_comes_in_pieces_and_is_the_same(address: str, expected: str) -> None:
    body = {"messages": [{"role": "user", "content": STORY}], "temperature": 0, "max_tokens": 32, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as answered:
        lines = [line.removeprefix("data: ") for line in answered.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"] for line in lines[:-1]]
    pieces = [choices[0]["delta"].get("content") or "" for choices in deltas if choices]
    assert "".join(pieces) == expected
    assert len([piece for piece in pieces if piece]) > 1


@pytest.mark.slow
def test_prompt_over_http_has_as_many_tokens_as_in_training(address: str, spoken: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spoken / "data/tokens/tokenizer")
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": STORY}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ask(address, messages=messages)["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.slow
def test_server_has_the_sampling_of_the_params_and_lets_no_other_site_read(address: str) -> None:
    says = httpx.get(f"{address}/props").json()["default_generation_settings"]["params"]
    assert (says["temperature"], says["min_p"], says["top_k"], says["top_p"]) == pytest.approx((0.7, 0.1, 0, 1.0))
    answered = httpx.get(f"{address}/v1/models", headers={"Origin": "http://elsewhere.example"})
    assert answered.headers.get("access-control-allow-origin", "") == ""
    assert httpx.get(f"{address}/slots").status_code != 200, "it would show the requests of others"
    assert "html" in httpx.get(address, follow_redirects=True).headers["content-type"]


def processes_of_group(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(entry.name)) == leader and "Z" not in (entry / "stat").read_text().rpartition(")")[2][:3]:
                found.append(int(entry.name))
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_clean_while_answers_are_asked_for(spoken: Path, number: int) -> None:
    with server(spoken) as (process, address):
        failed: list[object] = []

        def ask_on() -> None:
            try:
                while True:
                    ask(address, max_tokens=200, temperature=2.0)
            except httpx.HTTPError as error:
                failed.append(error)
            except AssertionError as error:  # answered while it ended
                failed.append(error)

        asking = [threading.Thread(target=ask_on, daemon=True) for _ in range(4)]
        for thread in asking:
            thread.start()
        ask(address)
        assert processes_of_group(process.pid) == [process.pid], "one process, so none can be left"
        process.send_signal(number)
        assert process.wait(5) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        for thread in asking:
            thread.join(30)
        assert len(failed) == 4
        assert processes_of_group(process.pid) == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(address)


@pytest.mark.slow
def test_busy_port_is_said(spoken: Path, retune: Callable[..., Any]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = retune("serve", "--port", str(other.getsockname()[1]), cwd=spoken)
    assert done.returncode == 1
    assert "Address already in use" in done.stderr
    assert "`--port 0`" in done.stderr


@pytest.mark.slow
def test_file_that_cannot_be_served_is_said(spoken: Path, retune: Callable[..., Any]) -> None:
    done = retune("serve", "--port", "0", "--gguf", "params.yaml", cwd=spoken)
    assert done.returncode == 1
    assert "llama.cpp does not serve params.yaml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104 - it is what the warning is for
        ("::", False),
        ("10.0.0.5", False),
        ("myhost", False),
    ],
)
def test_address_that_others_can_reach_gets_a_warning(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
    text = greeting("http://x:1", Path("a.gguf"), host)
    assert ("WARNING" in text) == (not loopback)
    assert "curl http://x:1/v1/chat/completions" in text


ASKS = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}{% if add_generation_prompt %}a: "


@pytest.mark.parametrize(
    ("thoughts", "told"),
    [
        ("", False),
        ("{% if enable_thinking %}<think>{% endif %}", True),
        ("{{ '<think>' if thinking else '</think>' }}", True),
        # what is thought without a word, as Qwen3's does, needs none; and no word helps where both differ from saying nothing
        ("{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}", False),
        ("{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}", False),
    ],
)
def test_server_opens_no_thoughts_that_training_did_not(tmp_path: Path, thoughts: str, told: bool) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    byte_level(["<bos>", "<eos>"]).save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(ASKS + thoughts + "{% endif %}")
    write_small_gguf(tmp_path / "model.gguf", folder, adds_bos=False)
    assert thinks_only_when_told(tmp_path / "model.gguf") is told


def test_server_says_where_no_verdict_lets_its_file_pass(spoken: Path, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(spoken, root, symlinks=True)
    (root / "data/gate.json").write_text('{"passed": true, "reas')
    with server(root) as (process, address):
        assert address.startswith("http://127.0.0.1:")
        process.kill()
        assert f"{NO_VERDICT}: data/audit/verdict.json is not there" in process.communicate(timeout=20)[1]
