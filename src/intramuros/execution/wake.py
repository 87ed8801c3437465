"""Woken by signed webhooks instead of asking all the time: ``--wake-listen``.

A listener at an address of this machine takes the control plane's webhooks, as a proxy of the
operator's own passes them on: whatever verifies makes the worker ask for work now. Asking is all
that a webhook can cause, and what it says is not believed beyond that. Webhooks get lost, so the
worker also asks now and then by itself.
"""

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from intramuros.execution.listener import Asked, Told, listening
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
_MAX_SECRET_BYTES: Final = 1024


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
        at, answer = self._address, self._told
        async with listening(at, "--wake-listen", answer, MAX_BODY_BYTES) as bound:
            log.info("wake_listen", at=f"{bound[0]}:{bound[1]}")
            yield bound

    def _told(self, asked: Asked) -> Told:
        return Told(405 if asked.method != "POST" else self.answer(asked.headers, asked.body))


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
