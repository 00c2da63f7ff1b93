"""A Hub of the tests' own: it stands for huggingface.co, which cannot be reached from where they run.

It speaks over HTTP the endpoints that `huggingface_hub` uses to make a repository, a branch and a commit, and LFS for large
files (as the client does without Xet), and keeps what it was sent.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

TOKEN = "hf_a-token-of-the-tests-0123456789"
READ_ONLY = "hf_one-that-may-only-read-9876543210"
LARGE = 1000
"""Bytes from which a file is LFS's; at the Hub some ten million."""


class Hub:
    """What the repositories have: `branches[repo][branch]` is a list of commits, each `{"title", "description", "files"}`."""

    def __init__(self):
        self.branches, self.private, self.objects, self.requests, self.down = {}, {}, {}, [], set()

    def head(self, repo, branch="main"):
        return self.branches[repo][branch][-1]

    def files(self, repo, branch="main"):
        return self.head(repo, branch)["files"]

    def sent(self, pattern):
        return [path for method, path in self.requests if re.search(pattern, f"{method} {path}")]


def oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def commit_id(repo, branch, number):
    return hashlib.sha1(f"{repo} {branch} {number}".encode()).hexdigest()


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments):
            pass

        def body(self):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def reply(self, status, told=None, headers=(), data=None):
            data = json.dumps(told or {}).encode() if data is None else data
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **dict(headers)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refused(self):
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if given == READ_ONLY and self.command == "POST":
                return self.reply(403, {"error": "Forbidden: you have not the rights"}) or True
            if given not in (TOKEN, READ_ONLY):
                return self.reply(401, {"error": f"Invalid credentials {given}"}) or True
            return False

        def any(self):
            hub.requests.append((self.command, self.path))
            body, path = self.body(), self.path.partition("?")[0]
            if any(re.search(pattern, f"{self.command} {path}") for pattern in hub.down):
                return self.reply(400, {"error": "out of order"})
            if path.startswith("/lfs/"):
                hub.objects[path.removeprefix("/lfs/")] = body
                return self.reply(200)
            if self.refused():
                return None
            if path == "/api/validate-yaml":
                return self.reply(200, {"errors": [], "warnings": []})
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                return self.batch(json.loads(body))
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.resolve(*match.groups())
            match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|revision|tree|preupload|commit)/([^/]+)", path)
            if match is None or match[1] not in hub.branches:
                return self.reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return getattr(self, match[2])(match[1], match[3], body)

        do_GET = do_POST = do_PUT = do_HEAD = any

        def create(self, told):
            repo = f"{told['organization']}/{told['name']}"
            url = f"http://{self.headers['Host']}/{repo}"
            if repo in hub.branches:
                return self.reply(409, {"error": "You already created this model repo", "url": url})
            hub.branches[repo] = {"main": [{"title": "initial commit", "files": {".gitattributes": b"*.safetensors filter=lfs"}}]}
            hub.private[repo] = told.get("private", told.get("visibility") == "private")
            return self.reply(200, {"url": url, "id": repo, "name": repo})

        def branch(self, repo, branch, body):
            known = branch in hub.branches[repo]
            hub.branches[repo].setdefault(branch, list(hub.branches[repo]["main"]))
            return self.reply(409 if known else 200, {"error": "Reference already exists"} if known else {})

        def revision(self, repo, branch, body):
            number = len(hub.branches[repo][branch])
            files = [{"rfilename": name} for name in hub.files(repo, branch)]
            return self.reply(200, {"id": repo, "sha": commit_id(repo, branch, number), "siblings": files, "private": True})

        def tree(self, repo, branch, body):
            found = []
            for name, data in hub.files(repo, branch).items():
                row = {"type": "file", "path": name, "size": len(data), "oid": oid(data)}
                if len(data) >= LARGE:
                    row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
                found.append(row)
            return self.reply(200, found)

        def preupload(self, repo, branch, body):
            there, rows = hub.files(repo, branch), []
            for file in json.loads(body)["files"]:
                mode = "lfs" if file["size"] >= LARGE else "regular"
                row = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
                if file["path"] in there:
                    data = there[file["path"]]
                    row["oid"] = hashlib.sha256(data).hexdigest() if mode == "lfs" else oid(data)
                rows.append(row)
            return self.reply(200, {"files": rows})

        def batch(self, told):
            rows = []
            for one in told["objects"]:
                row = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in hub.objects:
                    row["actions"] = {"upload": {"href": f"http://{self.headers['Host']}/lfs/{one['oid']}"}}
                rows.append(row)
            return self.reply(200, {"objects": rows, "transfer": "basic"})

        def commit(self, repo, branch, body):
            header, *lines = (json.loads(line) for line in body.splitlines() if line)
            if header["value"].get("parentCommit") not in (None, commit_id(repo, branch, len(hub.branches[repo][branch]))):
                return self.reply(412, {"error": "A commit has happened since. Please refresh and try again."})
            files = dict(hub.files(repo, branch))
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
                else:
                    del files[value["path"]]
            told = {"title": header["value"]["summary"], "description": header["value"]["description"], "files": files}
            hub.branches[repo][branch].append(told)
            made = commit_id(repo, branch, len(hub.branches[repo][branch]))
            url = f"http://{self.headers['Host']}/{repo}/commit/{made}"
            return self.reply(200, {"success": True, "commitOid": made, "commitUrl": url})

        def resolve(self, repo, branch, name):
            data = hub.files(repo, branch)[name]
            made = commit_id(repo, branch, len(hub.branches[repo][branch]))
            return self.reply(200, data=data, headers={"ETag": f'"{oid(data)}"', "X-Repo-Commit": made})

    return Handler


@pytest.fixture
def hub(monkeypatch):
    """The Hub, and an environment with a token that may write to it."""
    made = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(made))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("CALLTUNE_HUB_TOKEN", raising=False)
    # Xet, which the client prefers, is a protocol of its own between its Rust library and another server.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    made.read_only = READ_ONLY
    yield made
    server.shutdown()
    server.server_close()
