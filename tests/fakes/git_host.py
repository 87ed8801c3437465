"""A host of repositories on loopback: git's own smart HTTP server behind TLS, as github.com."""

import base64
import contextlib
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import trustme

PLAIN = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "PATH": "/usr/bin:/bin",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}


def git(folder: Path, *arguments: str, data: bytes = b"") -> str:
    """Run git in a folder and return what it says."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=PLAIN, input=data, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


class GitHost:
    """Repositories by ``owner/name``; those with a token are private."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tokens: dict[str, str] = {}
        self.injected: dict[str, str] = {}
        """Stands for a proxy: repositories whose requests get a token on their way."""
        self.statuses: dict[str, int] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.ca = folder / "ca.pem"
        self.port = 0

    def make(self, name: str, files: dict[str, str | bytes], token: str | None = None) -> str:
        """Make a repository with one commit and return the commit."""
        tree = self.folder / "trees" / name
        tree.mkdir(parents=True)
        git(tree, "init", "-q", "-b", "main")
        for path, content in files.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
        if files:
            git(tree, "add", "-A", "-f")
            git(tree, "commit", "-q", "-m", "first")
        bare = self.bare(name)
        git(self.folder, "clone", "-q", "--bare", str(tree), str(bare))
        for setting in ("http.receivepack", "uploadpack.allowAnySHA1InWant"):
            git(bare, "config", setting, "true")
        if token is not None:
            self.tokens[name] = token
        return git(tree, "rev-parse", "HEAD") if files else ""

    def tree(self, name: str) -> Path:
        """Return a working tree to change and to :meth:`push` from."""
        return self.folder / "trees" / name

    def bare(self, name: str) -> Path:
        """Return the repository that is served."""
        return self.folder / "served" / f"{name}.git"

    def push(self, name: str, *refs: str) -> None:
        """Serve what the working tree has by now."""
        git(self.tree(name), "push", "-q", "-f", str(self.bare(name)), *refs)

    def environment(self) -> dict[str, str]:
        """Return what makes git find this host under the name of github.com."""
        return {
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.https://localhost:{self.port}/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/",
            "GIT_SSL_CAINFO": str(self.ca),
        }

    def status(self, name: str, token: str | None) -> int:
        """Return what a request for a repository with that token is answered."""
        if name in self.statuses:
            return self.statuses[name]
        if not self.bare(name).exists():
            return 404
        return 200 if self.tokens.get(name) in (None, token) else 401


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        host = cast("Any", self.server).host
        url = urlsplit(self.path)
        name = "/".join(url.path.split("/")[1:3]).removesuffix(".git")
        token = _password(self.headers.get("authorization")) or host.injected.get(name)
        host.asked.append((url.path, token))
        length = int(self.headers.get("content-length") or 0)
        body = self._chunks() if self.headers.get("transfer-encoding") else self.rfile.read(length)
        status = host.status(name, token)
        if status != 200:
            self.send_response(status)
            if status == 401:
                self.send_header("www-authenticate", 'Basic realm="git"')
            if status == 302:
                self.send_header("location", f"https://elsewhere.invalid{self.path}")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        self._backend(host, name, url.path, url.query, body)

    do_GET = do_POST = _serve

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _backend(self, host: GitHost, name: str, path: str, query: str, body: bytes) -> None:
        inner = path.split("/", 3)[3]
        env = {
            **PLAIN,
            "GIT_PROJECT_ROOT": str(host.folder / "served"),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": f"/{name}.git/{inner}",
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("content-type") or "",
            "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding") or "",
            "GIT_PROTOCOL": self.headers.get("git-protocol") or "",
            "REMOTE_USER": "a",
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], env=env, input=body, capture_output=True, check=True
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = [line.decode().split(": ", 1) for line in head.split(b"\r\n")]
        status = next((v for k, v in fields if k == "Status"), "200 OK")
        self.send_response(int(status.split()[0]))
        for key, value in fields:
            if key != "Status":
                self.send_header(key, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _password(header: str | None) -> str | None:
    if not header or not header.startswith("Basic "):
        return None
    return base64.b64decode(header[6:]).decode().partition(":")[2]


@contextlib.contextmanager
def git_host(folder: Path) -> Iterator[GitHost]:
    """Serve repositories until the block ends."""
    programs = shutil.which("git", path=PLAIN["PATH"]) and git(folder.parent, "--exec-path")
    if not programs or not (Path(programs) / "git-http-backend").exists():
        pytest.skip("this host has no git with its HTTP server (git-http-backend)")
    folder.mkdir(parents=True, exist_ok=True)
    host = GitHost(folder)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(host.ca))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    cast("Any", server).host = host
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  clients hang up
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "github.com").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    host.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
