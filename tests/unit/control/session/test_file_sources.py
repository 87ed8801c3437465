import random

import pytest

from intramuros.control.catalog import files
from intramuros.control.identity.actor import Actor
from intramuros.control.identity.principal import CredentialKind, Principal
from intramuros.control.session import file_sources
from intramuros.control.store.blobs import Blob
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import ManualClock
from intramuros.protocol.events import INBOUND, Inbound

CLIENT = Principal(CredentialKind.API_KEY, "apikey_1", "wrkspc_test")
WORKER = Principal(
    CredentialKind.SESSIONS_TOKEN, "sestok_1", "wrkspc_test", session_id="sesn_1", work_id="work_1"
)


@pytest.fixture
def actor(clock: ManualClock) -> Actor:
    return Actor(clock, IdFactory(clock, random.Random(7).randbytes), "wrkspc_test", "apikey_test")


def upload(tx: Tx, actor: Actor, kind: str, size: int = 5, session_id: str | None = None) -> str:
    new = files.NewFile("f", kind, session_id=session_id)
    return files.add(tx, actor, new, Blob(f"k{random.random()}", size, "sha"), 10**12).id


def message(*blocks: tuple[str, str]) -> Inbound:
    content = [
        {"type": block, "source": {"type": "file", "file_id": file_id}} for block, file_id in blocks
    ]
    return INBOUND.validate_python({"type": "user.message", "content": content})


def check(tx: Tx, *inbound: Inbound, caller: Principal = CLIENT) -> None:
    file_sources.check(tx, caller, "sesn_1", inbound, 0)


@pytest.mark.parametrize(
    ("block", "kind", "fits"),
    [
        ("image", "image/png", True),
        ("image", "image/svg+xml", False),
        ("image", "application/pdf", False),
        ("document", "application/pdf", True),
        ("document", "text/csv", True),
        ("document", "application/json", True),
        ("document", "image/png", False),
        ("document", "application/octet-stream", False),
    ],
)
def test_a_block_takes_files_of_its_own_kinds(
    tx: Tx, actor: Actor, block: str, kind: str, fits: bool
) -> None:
    sent = message((block, upload(tx, actor, kind)))
    if fits:
        check(tx, sent)
    else:
        with pytest.raises(InvalidRequest, match=r"events\[0\].content\[0\]"):
            check(tx, sent)


def test_c10_13_at_most_100_documents_over_all_events(tx: Tx, actor: Actor) -> None:
    one = upload(tx, actor, "text/plain")
    many = message(*[("document", one)] * 50)
    check(tx, many, many)
    with pytest.raises(InvalidRequest, match="at most 100"):
        check(tx, many, many, message(("document", one)))
    image = upload(tx, actor, "image/png")
    check(tx, many, many, message(("image", image)))


def test_files_that_are_not_there_or_too_large_are_refused(tx: Tx, actor: Actor) -> None:
    with pytest.raises(NotFound, match="file_absent"):
        check(tx, message(("image", "file_absent")))
    large = upload(tx, actor, "image/png", file_sources.MAX_BYTES + 1)
    with pytest.raises(InvalidRequest, match="over"):
        check(tx, message(("image", large)))


def test_a_worker_reaches_its_own_sessions_files_alone(tx: Tx, actor: Actor) -> None:
    foreign = upload(tx, actor, "image/png")
    other = upload(tx, actor, "image/png", session_id="sesn_2")
    own = upload(tx, actor, "image/png", session_id="sesn_1")
    check(tx, message(("image", own)), caller=WORKER)
    for file_id in (foreign, other):
        with pytest.raises(NotFound):
            check(tx, message(("image", file_id)), caller=WORKER)


def test_other_sources_need_no_file(tx: Tx) -> None:
    url = {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}
    check(tx, INBOUND.validate_python({"type": "user.message", "content": [url]}))
    check(tx, INBOUND.validate_python({"type": "user.interrupt"}))
