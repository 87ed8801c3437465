"""Woken by signed webhooks instead of asking all the time: ``--wake-listen``.

A listener at an address of this machine takes the control plane's webhooks, as a proxy of the
operator's own passes them on: whatever verifies makes the worker ask for work now. Asking is all
that a webhook can cause, and what it says is not believed beyond that. Webhooks get lost, so the
worker also asks now and then by itself.
"""

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from intramuros.kernel.errors import OperatorError
from intramuros.kernel.service import Stop
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock

log = logger("wake")

MAX_BODY_BYTES: Final = 256 * 1024
# An item can be claimed about when its webhook arrives: the worker goes on asking for a while.
AWAKE_S: Final = 5.0
# Signatures are good for five minutes either way.
_REMEMBERED_S: Final = 660.0
_MAX_REMEMBERED: Final = 10_000
_MAX_HEAD: Final = 16 * 1024
_MAX_SECRET_BYTES: Final = 1024
_ANSWER_S: Final = 5.0
_AT_ONCE: Final = 16
_CHUNK: Final = 16 * 1024
_GONE: Final = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Bell:
    """What wakes the poll loop."""

    def __init__(self, clock: Clock, asleep_s: float) -> None:
        self._clock = clock
        self._asleep_s = asleep_s
        self._rung_s = -math.inf
        self._rung = anyio.Event()
        self.rings = 0

    def ring(self) -> None:
        """Have the worker ask for work now."""
        self.rings += 1
        self._rung_s = self._clock.monotonic()
        self._rung.set()

    async def sleep(self, stop: Stop) -> None:
        """Return when it rings or rang a moment ago, after a long while, or at the stop."""
        if self._clock.monotonic() - self._rung_s < AWAKE_S:
            return
        self._rung = anyio.Event()
        with anyio.move_on_after(self._asleep_s):
            async with anyio.create_task_group() as group:

                async def cut() -> None:
                    await stop.wait()
                    group.cancel_scope.cancel()

                group.start_soon(cut)
                await self._rung.wait()
                group.cancel_scope.cancel()


class Doorbell:
    """Takes webhooks at an address of this machine and rings for those that verify."""

    def __init__(self, address: tuple[str, int], secret: str, bell: Bell, clock: Clock) -> None:
        self._address = address
        self._webhook = Webhook(secret)
        self._bell = bell
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()

    def answer(self, headers: Mapping[str, str], body: bytes) -> int:
        """Return the status for a webhook; rings if it is one that was not there before."""
        try:
            self._webhook.verify(body, dict(headers), json_parse=False)
        except (WebhookVerificationError, ValueError):
            log.warning("webhook_refused")
            return 401
        now = self._clock.monotonic()
        while self._seen and next(iter(self._seen.values())) < now - _REMEMBERED_S:
            self._seen.popitem(last=False)
        id = headers["webhook-id"]
        if id in self._seen:
            # Sent twice, by the control plane or by somebody else: it has been heard.
            return 200
        if len(self._seen) >= _MAX_REMEMBERED:
            return 429
        self._seen[id] = now
        self._bell.ring()
        return 200

    async def serve(self, stop: Stop) -> None:
        """Take webhooks until a stop is asked for."""
        async with self.opened():
            await stop.wait()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[str, int]]:
        """Listen until the block ends; gives where.

        Raises:
            OperatorError: it cannot listen there.
        """
        host, port = self._address
        try:
            listener = await anyio.create_tcp_listener(local_host=host, local_port=port)
        except OSError as error:
            raise OperatorError(
                f"cannot listen for webhooks at {host}:{port} ({error.strerror or error})",
                "choose another --wake-listen",
            ) from error
        attributes: Mapping[Any, Any] = listener.listeners[0].extra_attributes
        bound = attributes[SocketAttribute.local_address]()
        log.info("wake_listen", at=str(bound))
        limit = anyio.CapacityLimiter(_AT_ONCE)

        async def visit(stream: SocketStream) -> None:
            async with limit, stream:
                with suppress(OSError, *_GONE), anyio.move_on_after(_ANSWER_S):
                    await self._visit(stream)

        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, visit)
            try:
                yield str(bound[0]), int(bound[1])
            finally:
                group.cancel_scope.cancel()

    async def _visit(self, stream: SocketStream) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        request: h11.Request | None = None
        body = bytearray()
        status = 400
        try:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive(_CHUNK))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > MAX_BODY_BYTES:
                        status = 413
                        break
                elif isinstance(event, h11.EndOfMessage) and request is not None:
                    status = self._judge(request, bytes(body))
                    break
                else:
                    return
        except h11.RemoteProtocolError:
            status = 400
        if http.our_state is not h11.SEND_RESPONSE and http.our_state is not h11.IDLE:
            return
        headers = [("content-length", "0"), ("connection", "close")]
        await stream.send(http.send(h11.Response(status_code=status, headers=headers)) or b"")

    def _judge(self, request: h11.Request, body: bytes) -> int:
        if request.method != b"POST":
            return 405
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in request.headers}
        return self.answer(headers, body)


def read_secret(file: Path) -> str:
    """Return the signing secret of a file that holds nothing else.

    Raises:
        OperatorError: it cannot be read, others may read it, or it is no secret.
    """
    fix = "write the webhook's signing secret (whsec_…) alone into it, mode 0600"
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_SECRET_BYTES + 1)
            mode = file.stat().st_mode
    except OSError as error:
        raise OperatorError(f"cannot read {file} ({error.strerror})", fix) from error
    if mode & 0o077:
        raise OperatorError(f"others may read {file}", f"run: chmod 600 {file}")
    try:
        secret = raw.decode("ascii").strip()
        if not secret.startswith("whsec_") or len(raw) > _MAX_SECRET_BYTES:
            raise ValueError("no secret of a webhook")
        Webhook(secret)
    except Exception as error:
        raise OperatorError(f"{file} holds no signing secret", fix) from error
    return secret
