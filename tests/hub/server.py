"""A Hub on loopback: the HTTP protocol that `huggingface_hub` speaks, over files in a folder.

It holds repositories of models with branches and commits. Uploads of less than `lfs_from` bytes come within a commit,
larger ones through LFS. Faults can be ordered, to see what a client makes of them.
"""

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

OWNER_TOKEN = "hf_owner"
READER_TOKEN = "hf_reader"
# What the Hub knows of its own lists; enough of them for what is tested.
LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "other", "unknown"}
PIPELINE_TAGS = {"text-classification", "sentence-similarity", "feature-extraction"}


@dataclass
class Repository:
    """Files by path, as the SHA-256 of their content, for each commit; commits by branch, newest last."""

    private: bool = False
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    branches: dict[str, list[str]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)

    def commit(self, branch: str, files: dict[str, str], message: str) -> str:
        sha = hashlib.sha1(f"{branch} {time.time_ns()} {sorted(files.items())}".encode()).hexdigest()
        self.commits[sha] = files
        self.messages[sha] = message
        self.branches.setdefault(branch, []).append(sha)
        return sha

    def resolve(self, revision: str) -> str | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        return revision if revision in self.commits else None


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a method whose path matches: a status, or a cut connection."""

    method: str
    path: str
    status: int | None
    times: int = 1


class LoopbackHub:
    """The server; it listens from its making on.

    Args:
        folder: Where the contents of files are kept, each under its SHA-256.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lfs_from = 10_000_000
        self.reset()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lfs_from = 10_000_000

    def fail(self, method: str, path: str, status: int | None, times: int = 1) -> None:
        """Orders a fault; without a status, the connection is cut in the middle of the request."""
        self.faults.append(Fault(method, path, status, times))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, Path]:
        """Where the content of each file of a repository lies."""
        repository = self.repositories[repo_id]
        sha = repository.resolve(revision)
        return {path: self.folder / digest for path, digest in repository.commits[str(sha)].items()}

    def messages(self, repo_id: str, branch: str = "main") -> list[str]:
        """Of the commits, oldest first, without the one that made the repository."""
        repository = self.repositories[repo_id]
        return [repository.messages[sha] for sha in repository.branches[branch][1:]]

    def store(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (self.folder / digest).write_bytes(content)
        return digest

    def add(self, repo_id: str, files: dict[str, bytes]) -> None:
        """Puts files there without the protocol."""
        repository = self.repositories.setdefault(repo_id, Repository())
        latest = repository.resolve("main")
        known = repository.commits[latest] if latest else {}
        repository.commit("main", {**known, **{path: self.store(content) for path, content in files.items()}}, "added")


def card_problems(content: str) -> list[str]:
    """What the Hub would object to in a card's metadata."""
    data = yaml.safe_load(content.split("---")[1]) or {}
    problems = []
    if data.get("license", "mit") not in LICENSES:
        problems.append(f"license {data['license']!r} is not known")
    if data.get("pipeline_tag", "text-classification") not in PIPELINE_TAGS:
        problems.append(f"pipeline_tag {data['pipeline_tag']!r} is not known")
    for key in ("base_model", "datasets"):
        values = data.get(key, [])
        for value in [values] if isinstance(values, str) else values:
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value):
                problems.append(f"{key} {value!r} is no repository's id")
    for language in data.get("language", []):
        if not re.fullmatch(r"[a-z]{2,3}", language):
            problems.append(f"language {language!r} is no code")
    for model in data.get("model-index", []):
        for result in model["results"]:
            if not {"type"} <= result["task"].keys() or not {"type", "name"} <= result["dataset"].keys():
                problems.append(f"a result lacks a key: {result}")
            for metric in result["metrics"]:
                if not isinstance(metric["value"], (int, float)) or metric["value"] != metric["value"]:
                    problems.append(f"a metric has no number: {metric}")
    return problems


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    # ---- Answers ----

    def send(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        headers = {"X_Error_Message": message, **({"X_Error_Code": code} if code else {})}
        self.send(status, {"error": message}, **headers)

    # ---- Requests ----

    def handle_request(self) -> None:
        parts = urlsplit(self.path)
        path, self.query = unquote(parts.path), parse_qs(parts.query)
        self.hub.requests.append((self.command, path))
        for fault in self.hub.faults:
            if fault.times and fault.method == self.command and fnmatch(path, fault.path):
                fault.times -= 1
                if fault.status is None:
                    self.rfile.read(min(10, int(self.headers.get("Content-Length") or 0)))
                    self.connection.close()
                    self.close_connection = True
                    return
                self.body()
                self.refuse(fault.status, f"ordered {fault.status}")
                return
        content = self.body()
        for method, pattern, answer in _ROUTES:
            if self.command in method.split("|") and (found := re.fullmatch(pattern, path)):
                answer(self, content, **found.groupdict())
                return
        self.refuse(404, f"no route for {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def may_write(self) -> bool:
        if self.token not in (OWNER_TOKEN, READER_TOKEN):
            self.refuse(401, "Invalid credentials in Authorization header")
        elif self.token == READER_TOKEN:
            self.refuse(403, "Forbidden: this token may only read")
        return self.token == OWNER_TOKEN

    def repository(self, repo: str) -> Repository | None:
        """The repository, or None and an answer: one that may not be seen is as one that is not there."""
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and self.token not in (OWNER_TOKEN, READER_TOKEN)):
            self.refuse(404 if self.token else 401, "Repository not found", "RepoNotFound")
            return None
        return found

    def revision(self, repository: Repository, revision: str) -> str | None:
        sha = repository.resolve(revision)
        if sha is None:
            self.refuse(404, f"Revision {revision} not found", "RevisionNotFound")
        return sha

    # ---- The protocol ----

    def whoami(self, content: bytes) -> None:
        if self.token not in (OWNER_TOKEN, READER_TOKEN):
            self.refuse(401, "Invalid credentials")
            return
        self.send(200, {"type": "user", "name": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self, content: bytes) -> None:
        if not self.may_write():
            return
        asked = json.loads(content)
        repo = f"{asked.get('organization') or 'user'}/{asked['name']}"
        url = f"{self.hub.endpoint}/{repo}"
        if repo in self.hub.repositories:
            self.send(409, {"error": "You already created this model repo", "url": url})
            return
        repository = self.hub.repositories[repo] = Repository(private=asked.get("visibility") == "private")
        repository.commit("main", {}, "initial commit")
        self.send(200, {"url": url, "name": repo, "id": repo})

    def validate(self, content: bytes) -> None:
        problems = card_problems(json.loads(content)["content"])
        answer = {"errors": [{"message": problem} for problem in problems], "warnings": []}
        self.send(400 if problems else 200, answer)

    def preupload(self, content: bytes, repo: str, revision: str) -> None:
        if not self.may_write() or (repository := self.repository(repo)) is None:
            return
        if self.revision(repository, revision) is None:
            return
        modes = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["size"] >= self.hub.lfs_from else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(content)["files"]
        ]
        self.send(200, {"files": modes, "commitOid": repository.resolve(revision)})

    def lfs_batch(self, content: bytes, repo: str) -> None:
        if not self.may_write():
            return
        objects = [
            {
                "oid": entry["oid"],
                "size": entry["size"],
                "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{entry['oid']}", "header": {}}},
            }
            for entry in json.loads(content)["objects"]
        ]
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, content: bytes, oid: str) -> None:
        if self.hub.store(content) != oid:
            self.refuse(400, "the content is not what its hash says")
        else:
            self.send(200)

    def commit(self, content: bytes, repo: str, revision: str) -> None:
        if not self.may_write() or (repository := self.repository(repo)) is None:
            return
        if (sha := self.revision(repository, revision)) is None:
            return
        files, message = dict(repository.commits[sha]), ""
        for line in content.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if not (self.hub.folder / value["oid"]).exists():
                    self.refuse(400, f"{value['path']} was not uploaded")
                    return
                files[value["path"]] = value["oid"]
                repository.large.add(value["oid"])
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {path: digest for path, digest in files.items() if not path.startswith(f"{value['path']}/")}
            else:
                self.refuse(400, f"unknown operation {key}")
                return
        new = repository.commit(revision, files, message)
        url = f"{self.hub.endpoint}/{repo}/commit/{new}"
        self.send(200, {"success": True, "commitOid": new, "commitUrl": url, "hookOutput": ""})

    def branch(self, content: bytes, repo: str, revision: str) -> None:
        if not self.may_write() or (repository := self.repository(repo)) is None:
            return
        if revision in repository.branches:
            self.send(409, {"error": "Reference already exists"})
            return
        repository.branches[revision] = list(repository.branches["main"])
        self.send(200, {})

    def info(self, content: bytes, repo: str, revision: str | None = None) -> None:
        if (repository := self.repository(repo)) is None:
            return
        if (sha := self.revision(repository, revision or "main")) is None:
            return
        siblings = [{"rfilename": path} for path in repository.commits[sha]]
        answer = {"id": repo, "modelId": repo, "sha": sha, "private": repository.private, "siblings": siblings}
        self.send(200, {**answer, "tags": [], "downloads": 0, "likes": 0})

    def tree(self, content: bytes, repo: str, revision: str, path: str = "") -> None:
        if (repository := self.repository(repo)) is None:
            return
        if (sha := self.revision(repository, revision)) is None:
            return
        entries = [
            self.entry(repository, name, digest)
            for name, digest in repository.commits[sha].items()
            if not path or name.startswith(f"{path}/")
        ]
        if path and not entries:
            self.refuse(404, f"{path} not found", "EntryNotFound")
            return
        self.send(200, entries)

    def paths_info(self, content: bytes, repo: str, revision: str) -> None:
        if (repository := self.repository(repo)) is None:
            return
        if (sha := self.revision(repository, revision)) is None:
            return
        wanted = parse_qs(content.decode()).get("paths") or json.loads(content)["paths"]
        files = repository.commits[sha]
        self.send(200, [self.entry(repository, name, files[name]) for name in wanted if name in files])

    def entry(self, repository: Repository, name: str, digest: str) -> dict[str, Any]:
        size = (self.hub.folder / digest).stat().st_size
        lfs = {"lfs": {"oid": digest, "size": size, "pointerSize": 134}} if digest in repository.large else {}
        return {"type": "file", "path": name, "size": size, "oid": digest[:40], **lfs}

    def resolve(self, content: bytes, repo: str, revision: str, path: str) -> None:
        if (repository := self.repository(repo)) is None:
            return
        if (sha := self.revision(repository, revision)) is None:
            return
        digest = repository.commits[sha].get(path)
        if digest is None:
            self.send(404, b"Entry not found", X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
            return
        body = (self.hub.folder / digest).read_bytes()
        headers = {"ETag": f'"{digest}"', "X_Repo_Commit": sha, "Accept_Ranges": "bytes"}
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(found[1]), int(found[2] or len(body) - 1)
            headers["Content_Range"] = f"bytes {start}-{end}/{len(body)}"
            self.send(206, body[start : end + 1], **headers)
            return
        self.send(200, body, **headers)


_REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler.lfs_upload),
    ("POST", rf"/api/models/{_REPO}/commit/{_REVISION}", _Handler.commit),
    ("POST", rf"/api/models/{_REPO}/branch/{_REVISION}", _Handler.branch),
    ("GET", rf"/api/models/{_REPO}", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/revision/{_REVISION}", _Handler.info),
    ("GET", rf"/api/models/{_REPO}/tree/{_REVISION}(?:/(?P<path>.+))?", _Handler.tree),
    ("POST", rf"/api/models/{_REPO}/paths-info/{_REVISION}", _Handler.paths_info),
    ("GET|HEAD", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
]
