"""A small HTTP server with the endpoints of the Hugging Face hub that creating a repository and uploading to it call.

It keeps what it is sent, so that tests can compare that with the files on the disk.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_stand_in"


@dataclass
class StandInHub:
    """The state of the stand-in.

    Attributes:
        repositories: Files of each repository, by name and path.
        private: Whether each repository is private.
        messages: Messages of all commits.
        requests: Method and path of all requests.
        may_write: Whether the token may write.
        users: Users that exist.
        large: Suffix of files that are stored as large files.
        fails_on: Part of a path whose requests the hub answers with an error that is not worth another try.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    may_write: bool = True
    users: tuple[str, ...] = ("me",)
    large: str = ".no-such-suffix"
    fails_on: str | None = None
    address: str = ""
    _objects: dict[str, bytes] = field(default_factory=dict)

    def answer(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        self.requests.append(f"{method} {path}")
        if self.fails_on is not None and self.fails_on in path:
            return 400, {"error": "the stand-in fails"}
        if path.startswith("/storage/"):
            self._objects[path.rpartition("/")[2]] = body
            return 200, {}
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        owner, name, *action = path.removeprefix("/api/models/").strip("/").split("/")
        return self._in_repository(f"{owner}/{name}", action, body)

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] not in self.users:
            return 404, {"error": "Not found"}
        if not self.may_write:
            return 403, {"error": "You don't have the rights to create a model under this namespace"}
        if name in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{name}"}
        self.repositories[name] = {".gitattributes": b""}
        self.private[name] = wanted.get("visibility") == "private"
        return 200, {"url": f"{self.address}/{name}", "id": name}

    def _in_repository(self, name: str, action: list[str], body: bytes) -> tuple[int, Any]:
        if (files := self.repositories.get(name.removesuffix(".git"))) is None:
            return 404, {"error": "Repository not found"}
        match action:
            case ["auth-check", "write"]:
                return (200, {}) if self.may_write else (403, {"error": "Forbidden"})
            case ["preupload", _]:
                asked = [file["path"] for file in json.loads(body)["files"]]
                modes = {path: "lfs" if path.endswith(self.large) else "regular" for path in asked}
                return 200, {
                    "files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in asked]
                }
            case ["info", "lfs", "objects", "batch"]:
                return 200, {"objects": [self._upload_of(each) for each in json.loads(body)["objects"]]}
            case ["commit", _]:
                self._commit(files, [json.loads(line) for line in body.splitlines()])
                return 200, {
                    "commitUrl": f"{self.address}/{name}/commit/{'0' * 40}",
                    "commitOid": "0" * 40,
                    "pullRequestUrl": None,
                }
            case ["tree", _, *_]:
                return 200, [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in files.items()
                ]
            case _:
                return 200, {
                    "id": name,
                    "modelId": name,
                    "sha": "0" * 40,
                    "siblings": [{"rfilename": path} for path in files],
                    "tags": [],
                    "private": self.private[name],
                    "downloads": 0,
                }

    def _upload_of(self, wanted: dict[str, Any]) -> dict[str, Any]:
        return {**wanted, "actions": {"upload": {"href": f"{self.address}/storage/{wanted['oid']}"}}}

    def _commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.messages.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    content = self._objects[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
                    files[value["path"]] = content
                case "deletedFile":
                    del files[value["path"]]
                case other:
                    raise AssertionError(other)


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """A running stand-in."""
    hub = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, content = hub.answer(self.command, self.path.partition("?")[0], self.headers, body)
            answer = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            """Prints nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
