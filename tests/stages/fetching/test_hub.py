"""The fetching stages against a hub on loopback, each in a process of its own, since the hub library reads HF_ENDPOINT when imported."""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.project import ROOT

pytestmark = pytest.mark.slow

REVISION = "0123456789abcdef0123456789abcdef01234567"
DATASET = "somebody/dialogues"
MODEL = "somebody/model"
FIRST = b'{"messages": [{"role": "user", "content": "one"}]}\n'
SECOND = b'{"messages": [{"role": "user", "content": "two"}]}\n'


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    tampered: dict[str, bytes] = field(default_factory=dict)
    """Served in place of what the listing says."""
    cut_once: set[str] = field(default_factory=set)
    cut_always: set[str] = field(default_factory=set)
    refusal: tuple[int, str] | None = None
    token: str | None = None
    """If set, requests without it are refused."""
    asked: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    address: str = ""

    def listing(self) -> list[dict[str, object]]:
        entries: list[dict[str, object]] = []
        for path, content in self.files.items():
            pointer = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": pointer}
            if not path.endswith((".json", ".md")):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
                entry["oid"] = "f" * 40
            entries.append(entry)
        return entries


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path}")
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        if hub.refusal:
            return self.answer(hub.refusal[0], b"", {"X-Error-Code": hub.refusal[1], "X-Error-Message": hub.refusal[1]})
        if path in (f"/api/datasets/{DATASET}/tree/{REVISION}", f"/api/models/{MODEL}/tree/{REVISION}"):
            return self.answer(200, json.dumps(hub.listing()).encode(), {"Content-Type": "application/json"})
        for prefix in (f"/datasets/{DATASET}/resolve/{REVISION}/", f"/{MODEL}/resolve/{REVISION}/"):
            name = path.removeprefix(prefix)
            if path.startswith(prefix) and name in hub.files:
                return self.file(name)
        return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def file(self, name: str) -> None:
        hub = self.hub
        content = hub.tampered.get(name, hub.files[name])
        headers = {
            "ETag": f'"{hashlib.sha256(hub.files[name]).hexdigest()}"',
            "X-Repo-Commit": REVISION,
            "Accept-Ranges": "bytes",
        }
        status, start = 200, 0
        if wanted := self.headers.get("Range"):
            hub.ranges.append(wanted)
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = name in hub.cut_always or (name in hub.cut_once and self.command == "GET")
        if self.command == "GET":
            hub.cut_once.discard(name)
        self.answer(status, content[start:], headers, cut=cut, nothing=cut and start > 0)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False, nothing: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"" if nothing else body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": state}))
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


@dataclass
class Fetch:
    """Runs a fetching stage against the hub, in its own process with its own cache."""

    tmp_path: Path
    hub: Hub
    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, stage: str, **params: object) -> subprocess.CompletedProcess[str]:
        script = """
import json, sys
from importlib import import_module
from pathlib import Path
from stages.core.errors import StageError
name, params, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
module = import_module(f"stages.{name}")
model = module.FetchDataParams if name == "fetch_data" else module.FetchModelParams
outputs = ["raw"] if name == "fetch_data" else ["base", "tokenizer"]
try:
    getattr(module, name)(folder / "demo", folder / "custom", *[folder / "out" / output for output in outputs], model(**params))
except StageError as error:
    sys.exit(str(error))
assert "torch" not in sys.modules
"""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment |= {
            "HF_ENDPOINT": self.hub.address,
            "HF_HOME": str(self.tmp_path / "home"),
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
        }
        (self.tmp_path / "custom").mkdir(exist_ok=True)
        shutil.rmtree(self.tmp_path / "out", ignore_errors=True)
        (self.tmp_path / "out").mkdir()
        command = [sys.executable, "-c", script, stage, json.dumps(params), str(self.tmp_path)]
        return subprocess.run(
            command,
            env=environment | self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.tmp_path,
        )

    def data(self, **changed: object) -> subprocess.CompletedProcess[str]:
        """Of the dataset's train split; `limit` is the stage's, other changes are its source's."""
        source = {"source": DATASET, "revision": REVISION, "config": None, "split": "train", "columns": None}
        source |= {"weight": None, "max_rows": None}
        limit = changed.pop("limit", None)
        return self("fetch_data", sources=[source | changed], limit=limit)

    def model(self) -> subprocess.CompletedProcess[str]:
        return self("fetch_model", source=MODEL, revision=REVISION)

    def records(self) -> list[bytes]:
        return pq.read_table(self.tmp_path / "out/raw/rows.parquet")["record"].to_pylist()


@pytest.fixture
def fetch(tmp_path: Path, hub: Hub) -> Fetch:
    return Fetch(tmp_path, hub)


def parquet(rows: list[dict[str, object]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def model_files() -> dict[str, bytes]:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [0, 8]}}).encode()
    return {
        "config.json": b'{"model_type": "llama"}',
        "model.safetensors": len(header).to_bytes(8, "little") + header + bytes(8),
        "tokenizer.json": b'{"model": {"type": "BPE"}}',
        "modeling_evil.py": b"raise SystemExit",
        "pytorch_model.bin": b"pickle",
        "original/consolidated.00.pth": b"pickle",
    }


def test_dataset_shards_come_in_order_with_source_record(fetch: Fetch, hub: Hub) -> None:
    hub.files = {
        "data/train-00001-of-00002.parquet": parquet([{"n": 2}]),
        "data/train-00000-of-00002.parquet": parquet([{"n": 1}]),
        "data/test-00000-of-00001.parquet": parquet([{"n": 3}]),
        "README.md": b"# no header\n",
    }
    done = fetch.data()
    assert done.returncode == 0, done.stderr
    assert fetch.records() == [b'{"n":1}', b'{"n":2}']
    source = json.loads((fetch.tmp_path / "out/raw/source.json").read_text())
    first = hashlib.sha256(hub.files["data/train-00000-of-00002.parquet"]).hexdigest()
    assert source["sources"][0]["files"]["data/train-00000-of-00002.parquet"] == first
    assert (source["sources"][0]["source"], source["sources"][0]["revision"], source["rows"]) == (DATASET, REVISION, 2)


def test_dataset_limit_fetches_no_shard_it_does_not_need(fetch: Fetch, hub: Hub) -> None:
    hub.files = {f"data/train-0000{i}-of-00003.parquet": parquet([{"n": i}]) for i in range(3)}
    assert fetch.data(limit=1).returncode == 0
    assert fetch.records() == [b'{"n":0}']
    assert not any("00002-of" in asked for asked in hub.asked)


def test_dataset_sample_fetches_each_file_once(fetch: Fetch, hub: Hub) -> None:
    hub.files = {
        f"data/train-0000{i}-of-00002.jsonl": b"".join(b'{"n": %d}\n' % (50 * i + n) for n in range(50))
        for i in range(2)
    }
    done = fetch.data(max_rows=10)
    assert done.returncode == 0, done.stderr
    assert len(fetch.records()) == 10
    assert sum(asked.startswith("GET") and "/tree/" in asked for asked in hub.asked) == 1
    assert sum(asked.startswith("GET") and asked.endswith(".jsonl") for asked in hub.asked) == 2


def test_dataset_of_packed_shards_is_read(fetch: Fetch, hub: Hub) -> None:
    hub.files = {"en/c4-train.00000-of-00002.json.gz": gzip.compress(FIRST + SECOND), "en/c4-validation.json.gz": b""}
    done = fetch.data()
    assert done.returncode == 0, done.stderr
    assert fetch.records() == [FIRST.strip(), SECOND.strip()]


def test_dataset_file_that_differs_from_listing_is_refused_and_fetched_anew(fetch: Fetch, hub: Hub) -> None:
    hub.files = {"train.jsonl": FIRST, "README.md": b"x"}
    hub.tampered = {"train.jsonl": SECOND}
    failed = fetch.data()
    assert failed.returncode == 1
    assert "train.jsonl" in failed.stderr
    assert "hash" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "two" not in failed.stderr
    hub.tampered = {}
    assert fetch.data().returncode == 0
    assert fetch.records() == [FIRST.strip()]


def test_small_file_that_differs_from_its_git_hash_is_refused(fetch: Fetch, hub: Hub) -> None:
    hub.files = {"train.json": b'[{"n": 1}]'}
    hub.tampered = {"train.json": b'[{"n": 2}]'}
    assert "train.json" in fetch.data().stderr


def test_cached_file_that_rotted_is_found(fetch: Fetch, hub: Hub) -> None:
    hub.files = {"train.jsonl": FIRST}
    assert fetch.data().returncode == 0
    blob = next(path for path in (fetch.tmp_path / "home").rglob("*") if path.is_file() and path.read_bytes() == FIRST)
    blob.write_bytes(SECOND)
    assert "was thrown away" in fetch.data().stderr
    assert fetch.data().returncode == 0
    assert fetch.records() == [FIRST.strip()]


def test_cut_off_transfer_is_resumed(fetch: Fetch, hub: Hub) -> None:
    line = b'{"text": "' + b"x" * 24 * 2**20 + b'"}'  # the library keeps whole pieces of 10 MB
    hub.files = {"train.jsonl": line}
    hub.cut_once = {"train.jsonl"}
    done = fetch.data()
    assert done.returncode == 0, done.stderr
    assert fetch.records() == [line]
    assert hub.ranges == [f"bytes={10 * 2**20}-"]


def test_transfer_that_stays_cut_off_leaves_nothing(fetch: Fetch, hub: Hub) -> None:
    hub.files = {"train.jsonl": FIRST * 1000}
    hub.cut_always = {"train.jsonl"}
    failed = fetch.data()
    assert failed.returncode == 1
    assert "cut off" in failed.stderr.splitlines()[-1]
    assert not (fetch.tmp_path / "out/raw/source.json").exists()


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ((403, "GatedRepo"), "licence"),
        ((401, "GatedRepo"), "HF_TOKEN"),
        ((401, "RepoNotFound"), "check the id"),
        ((404, "RepoNotFound"), "check the id"),
        ((404, "RevisionNotFound"), "no revision"),
        ((403, "Other"), "HF_TOKEN"),
        ((500, "Other"), "try again later"),
    ],
)
def test_refusal_names_what_to_do(fetch: Fetch, hub: Hub, refusal: tuple[int, str], advice: str) -> None:
    hub.refusal = refusal
    failed = fetch.data()
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    assert advice in failed.stderr
    assert DATASET in failed.stderr


def test_no_server_says_so(fetch: Fetch) -> None:
    fetch.environment["HF_ENDPOINT"] = "http://127.0.0.1:9"
    failed = fetch.model()
    assert failed.returncode == 1
    assert "data/custom_base" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_offline_switch_is_named(fetch: Fetch) -> None:
    fetch.environment["HF_HUB_OFFLINE"] = "1"
    assert "HF_HUB_OFFLINE" in fetch.data().stderr


def test_server_that_is_no_hub_is_named(fetch: Fetch, hub: Hub) -> None:
    hub.refusal = (200, "")
    assert "HF_ENDPOINT" in fetch.data().stderr


def test_token_comes_from_environment_and_is_never_shown(fetch: Fetch, hub: Hub) -> None:
    right, wrong = "hf_right", "hf_wrong"
    hub.files = {"train.jsonl": FIRST}
    hub.token = right
    fetch.environment["HF_TOKEN"] = wrong
    failed = fetch.data()
    assert failed.returncode == 1
    assert wrong not in failed.stdout + failed.stderr
    fetch.environment["HF_TOKEN"] = right
    assert fetch.data().returncode == 0


def test_model_leaves_code_and_pickles_where_they_are(fetch: Fetch, hub: Hub) -> None:
    hub.files = model_files()
    done = fetch.model()
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (fetch.tmp_path / "out/base").iterdir()) == [
        "config.json",
        "model.safetensors",
        "source.json",
    ]
    assert [path.name for path in (fetch.tmp_path / "out/tokenizer").iterdir()] == ["tokenizer.json"]
    assert not any(name in asked for asked in hub.asked for name in ("evil", ".bin", ".pth"))
    source = json.loads((fetch.tmp_path / "out/base/source.json").read_text())
    assert source["files"]["base/model.safetensors"] == hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    assert (source["source"], source["revision"]) == (MODEL, REVISION)


def test_quantized_model_is_refused_before_its_weights_are_fetched(fetch: Fetch, hub: Hub) -> None:
    hub.files = model_files() | {
        "config.json": b'{"model_type": "llama", "quantization_config": {"load_in_4bit": true}}'
    }
    assert "16-bit" in fetch.model().stderr
    assert not any("safetensors" in asked for asked in hub.asked)
