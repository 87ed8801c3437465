"""An identity provider of the tests' own: discovery and keys over HTTPS on loopback."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import trustme
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

AUDIENCE = "https://intramuros.test"


@dataclass
class Provider:
    url: str
    ca_pem: str
    keys: dict[str, Any]
    http: httpx2.Client  # for exchanges
    asked: list[str] = field(default_factory=list)

    def assertion(self, kid: str = "rsa", algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        said = {
            "iss": self.url,
            "sub": "system:serviceaccount:jobs:runner",
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 600,
            **claims,
        }
        kept = {name: value for name, value in said.items() if value is not None}
        key = self.keys[kid]
        return jwt.encode({"alg": algorithm, "kid": kid}, kept, key, algorithms=[algorithm])

    def jwks(self) -> list[dict[str, Any]]:
        return [{**key.as_dict(private=False), "kid": kid} for kid, key in self.keys.items()]


@contextmanager
def running_provider() -> Iterator[Provider]:
    authority = trustme.CA()
    keys = {"rsa": RSAKey.generate_key(2048), "ec": ECKey.generate_key("P-256")}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked.append(self.path)
            answers = {
                "/.well-known/openid-configuration": {
                    "issuer": provider.url,
                    "jwks_uri": f"{provider.url}/keys",
                },
                "/keys": {"keys": provider.jwks()},
            }
            answer = answers.get(self.path)
            self.send_response(404 if answer is None else 200)
            body = json.dumps(answer).encode()
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_address[1]}"
    http = httpx2.Client()
    provider = Provider(url, authority.cert_pem.bytes().decode(), keys, http)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with http:
            yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
