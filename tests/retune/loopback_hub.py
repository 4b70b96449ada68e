"""As much of the hub's API as a push asks for, over HTTP on loopback: repositories, large files, commits."""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_thetokenofthistest"  # noqa: S105 - a made-up one
LARGE = (".safetensors", ".gguf")


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0

    @property
    def sha(self) -> str:
        return f"{self.commits:040x}"


@dataclass
class Hub:
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: int = 0
    """Bytes of large files that came."""
    refuse_writes: int | None = None
    cut_uploads: bool = False
    garble: bool = False
    """Keep other bytes than those that came."""
    address: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self) -> None:
        self.handle_any(b"")

    def do_POST(self) -> None:
        self.handle_any(self.body())

    def do_PUT(self) -> None:
        if self.hub.cut_uploads:
            self.rfile.read(1)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.handle_any(self.body())

    def handle_any(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"{self.command} {path}")
        if not path.startswith("/upload/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid credentials"})
        if self.command != "GET" and self.hub.refuse_writes and not path.endswith("validate-yaml"):
            return self.answer(self.hub.refuse_writes, {"error": "no"})
        found = self.found(path, body)
        return self.answer(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"}) if found is None else self.answer(200, found)  # fmt: skip

    def found(self, path: str, body: bytes) -> object | None:
        hub = self.hub
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            hub.repos.setdefault(name, Repo(private=wanted["visibility"] == "private"))
            return {"url": f"{hub.address}/{name}", "name": name, "id": name}
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        if path.startswith("/upload/"):
            digest = path.removeprefix("/upload/")
            hub.sent += len(body)
            assert hashlib.sha256(body).hexdigest() == digest
            hub.blobs[digest] = b"?" + body[1:] if hub.garble else body
            return {}
        return {} if path == "/verify" else self.of_repos(path, body)

    def of_repos(self, path: str, body: bytes) -> object | None:
        hub = self.hub
        for name, repo in hub.repos.items():
            if path == f"/{name}.git/info/lfs/objects/batch":
                return {"transfer": "basic", "objects": [self.action(one) for one in json.loads(body)["objects"]]}
            if path.startswith(f"/api/models/{name}"):
                return self.of_repo(name, repo, path.removeprefix(f"/api/models/{name}"), body)
        return None

    def action(self, wanted: dict[str, object]) -> dict[str, object]:
        if wanted["oid"] in self.hub.blobs:
            return wanted
        address = self.hub.address
        return {**wanted, "actions": {"upload": {"href": f"{address}/upload/{wanted['oid']}"}, "verify": {"href": f"{address}/verify"}}}  # fmt: skip

    def of_repo(self, name: str, repo: Repo, path: str, body: bytes) -> object | None:
        if path in ("", "/revision/main"):
            return {"id": name, "private": repo.private, "sha": repo.sha, "siblings": [{"rfilename": file} for file in repo.files]}  # fmt: skip
        if path == "/preupload/main":
            files = [file["path"] for file in json.loads(body)["files"]]
            return {"files": [{"path": file, "uploadMode": "lfs" if file.endswith(LARGE) else "regular", "shouldIgnore": False} for file in files]}  # fmt: skip
        if path == "/commit/main":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    repo.files[value["path"]] = self.hub.blobs[value["oid"]]
            repo.commits += 1
            return {"commitUrl": f"{self.hub.address}/{name}/commit/{repo.sha}", "commitOid": repo.sha}
        if path == f"/tree/{repo.sha}":
            return [self.entry(file, content) for file, content in repo.files.items()]
        return None

    def entry(self, path: str, content: bytes) -> dict[str, object]:
        found: dict[str, object] = {"type": "file", "path": path, "size": len(content)}
        if path.endswith(LARGE):
            digest = hashlib.sha256(content).hexdigest()
            return {**found, "oid": "f" * 40, "lfs": {"oid": digest, "size": len(content), "pointerSize": 134}}
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        return {**found, "oid": blob}

    def answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Hub]:
    state = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": state}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign] - a client that is cut off is no error
    state.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
