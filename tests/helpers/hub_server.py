"""A hub on the loopback device that speaks what a download needs."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """One repository at one commit; ``refuse`` is answered instead, as (status, error code).

    Files of weights have their SHA-256 with them, as on the hub, others git's own digest.
    """

    files: dict[str, bytes]
    repository: str = "someone/tiny"
    kind: str = "model"
    commit: str = COMMIT
    refuse: tuple[int, str] | None = None
    failing: dict[str, int] = field(default_factory=dict)  # how often files are not given
    listed: bool = True  # whether the list of files is given
    damaged: set[str] = field(default_factory=set)  # files whose second half comes as zeros
    digests: bool = True  # whether the digests of files are told
    served: list[str] = field(default_factory=list)
    endpoint: str = ""

    def answer(self, method: str, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        if self.refuse:
            status, code = self.refuse
            return status, {"X-Error-Code": code, "X-Error-Message": code}, b""
        api = re.fullmatch(rf"/api/{self.kind}s/{self.repository}(/revision/(.+))?", path)
        prefix = "datasets/" if self.kind == "dataset" else ""
        if path == f"/api/{self.kind}s/{self.repository}/tree/{self.commit}":
            if not self.listed:
                return 500, {}, b""
            return 200, {"Content-Type": "application/json"}, json.dumps(self.tree()).encode()
        file = re.fullmatch(rf"/{prefix}{self.repository}/resolve/{self.commit}/(.+)", path)
        if api and (api[2] or "main") in ("main", "v1", self.commit):
            return 200, {"Content-Type": "application/json"}, json.dumps(self.info()).encode()
        if api:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if file and self.failing.get(file[1], 0) > 0:
            self.failing[file[1]] -= 1
            return 418, {}, b""
        if file and file[1] in self.files:
            return self.content(method, file[1])
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def info(self) -> dict:
        siblings = [{"rfilename": name, **self.facts(name)} for name in self.files]
        return {"id": self.repository, "sha": self.commit, "siblings": siblings, "tags": []}

    def facts(self, name: str) -> dict:
        """What the hub tells about a file where it is asked for more than names."""
        content = self.files[name]
        if not self.digests:
            return {}
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        facts = {"size": len(content), "blobId": git}
        if name.endswith((".safetensors", ".bin", ".parquet")):
            sha256 = hashlib.sha256(content).hexdigest()
            facts["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 134}
            facts["blobId"] = "0" * 40  # of the pointer
        return facts

    def tree(self) -> list[dict]:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
            for name, content in self.files.items()
        ]

    def content(self, method: str, name: str) -> tuple[int, dict[str, str], bytes]:
        if method == "GET":
            self.served.append(name)
        content = self.files[name]
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"X-Repo-Commit": self.commit, "ETag": tag, "Content-Length": str(len(content))}
        if name in self.damaged:
            half = len(content) // 2
            content = content[:half] + bytes(len(content) - half)
        return 200, headers, content


@contextlib.contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a hub until the block ends; its ``endpoint`` is the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            status, headers, body = hub.answer(self.command, self.path.partition("?")[0])
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
