"""A gateway's files as a Kubernetes Secret, through the API of the cluster that we run in (R327).

The service account's mounted token and CA are all it needs, and the permissions to get, create and
patch one Secret. A change is sent with the version that it is based on, so two that run at once do
not overwrite each other; what else stands in the Secret stays.
"""

import base64
import binascii
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx2

from intramuros.kernel.config import environment
from intramuros.kernel.errors import OperatorError

MOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DEFAULT_SECRET: Final = "mcp-tunnel"  # noqa: S105  a Secret's name
TIMEOUT_S: Final = 30.0
# Kubernetes keeps objects of up to 1 MiB, and sends some more about them.
MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z", re.ASCII)
_HELP: Final = "let the service account get, create and patch secrets in its namespace"


@dataclass(frozen=True)
class Kept:
    """What a Secret holds, and the version it was read at; None when there is no such Secret."""

    files: Mapping[str, bytes]
    version: str | None


@dataclass(frozen=True)
class Cluster:
    """The cluster's API, and our namespace.

    Args:
        url: of the API, ``https://HOST:PORT``.
        mount: where the service account's ``token``, ``ca.crt`` and ``namespace`` lie.
    """

    url: str
    mount: Path = MOUNT

    @classmethod
    def here(cls) -> "Cluster | None":
        """Return the cluster that this process runs in, or None if it runs in none."""
        env = environment()
        host = env.get("KUBERNETES_SERVICE_HOST")
        if not host:
            return None
        shown = f"[{host}]" if ":" in host else host
        return cls(f"https://{shown}:{env.get('KUBERNETES_SERVICE_PORT', '443')}")

    async def read(self, name: str) -> Kept:
        """Return a Secret's files.

        Raises:
            OperatorError: the API is away or refused, or the name is none.
        """
        answer = await self._ask("GET", f"/{checked(name)}")
        if answer is None:
            return Kept({}, None)
        data = answer.get("data") or {}
        try:
            files = {key: base64.b64decode(value, validate=True) for key, value in data.items()}
        except (binascii.Error, TypeError, ValueError) as error:
            raise OperatorError(f"Secret {name} is malformed", "delete it") from error
        return Kept(files, str(answer["metadata"]["resourceVersion"]))

    async def write(self, name: str, files: Mapping[str, bytes], based_on: Kept) -> None:
        """Store files in a Secret, made if there was none.

        Raises:
            OperatorError: the API is away or refused, or the Secret changed meanwhile.
        """
        data = {key: base64.b64encode(value).decode() for key, value in files.items()}
        if based_on.version is None:
            meta: dict[str, Any] = {"name": checked(name)}
            labels = {"app.kubernetes.io/managed-by": "intramuros"}
            made = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": data}
            await self._ask("POST", "", {**made, "metadata": {**meta, "labels": labels}})
        else:
            meta = {"resourceVersion": based_on.version}
            await self._ask("PATCH", f"/{checked(name)}", {"metadata": meta, "data": data})

    async def _ask(self, method: str, path: str, body: object = None) -> dict[str, Any] | None:
        """Return an answer's object, or None when there is no such object."""
        namespace, token = self._mounted("namespace"), self._mounted("token")
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"authorization": f"Bearer {token}", "content-type": kind}
        url = f"{self.url}/api/v1/namespaces/{namespace}/secrets{path}"
        content = None if body is None else json.dumps(body).encode()
        try:
            context = ssl.create_default_context(cafile=str(self.mount / "ca.crt"))
            async with (
                httpx2.AsyncClient(verify=context, timeout=TIMEOUT_S, trust_env=False) as client,
                client.stream(method, url, content=content, headers=headers) as answer,
            ):
                data = b""
                async for piece in answer.aiter_bytes():
                    data += piece
                    if len(data) > MAX_ANSWER_BYTES:
                        raise OperatorError("the cluster's API answered too much", _HELP)
        except (OSError, httpx2.HTTPError) as error:
            raise OperatorError(
                f"the cluster's API at {self.url} is unreachable ({type(error).__name__})",
                "check the network policy and the service account's mount",
            ) from error
        return _object(method, answer.status_code, data)

    def _mounted(self, name: str) -> str:
        # Read anew each time: the cluster renews tokens in place.
        try:
            return (self.mount / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(
                f"cannot read {self.mount / name}", "mount the service account's token"
            ) from error


def checked(name: str) -> str:
    """Return the name of a Secret.

    Raises:
        OperatorError: it is none.
    """
    if not _NAME.match(name):
        raise OperatorError(f"{name!r} names no Secret", "use small letters, digits, - and .")
    return name


def _object(method: str, status: int, data: bytes) -> dict[str, Any] | None:
    if status == 404 and method == "GET":
        return None
    if status == 409:
        raise OperatorError("the Secret was changed meanwhile", "run the command again")
    if status >= 300:
        raise OperatorError(f"the cluster's API answered {status} to {method} of the Secret", _HELP)
    try:
        found = json.loads(data)
        kind, version = found["kind"], found["metadata"]["resourceVersion"]
    except (ValueError, TypeError, KeyError) as error:
        raise OperatorError("the cluster's API gave no Secret", _HELP) from error
    if kind != "Secret" or not isinstance(version, str):
        raise OperatorError("the cluster's API gave no Secret", _HELP)
    result: dict[str, Any] = found
    return result
