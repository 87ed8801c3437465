import pytest

from intramuros.control.catalog import memories, memory_versions
from intramuros.control.catalog.memory_versions import Author, Query, Writer, author_of
from intramuros.control.identity.actor import Actor
from intramuros.control.store.db import Tx
from intramuros.kernel.errors import InvalidRequest, NotFound
from intramuros.protocol.resources.memory import MemoryCreate, MemoryUpdate
from tests.unit.control.catalog.memory import API_KEY, make_session, make_writer


def test_c25_10_R164_a_session_is_named_for_its_token(tx: Tx, actor: Actor) -> None:
    token = make_session(tx, actor, "sesn_1")
    assert author_of(token) == Author("session_actor", "sesn_1")
    assert author_of(API_KEY) == Author("api_actor", "apikey_test")


@pytest.mark.parametrize(
    ("author", "shown"),
    [
        (Author("session_actor", "s"), {"type": "session_actor", "session_id": "s"}),
        (Author("api_actor", "a"), {"type": "api_actor", "api_key_id": "a"}),
        (Author("user_actor", "u"), {"type": "user_actor", "user_id": "u"}),
        (
            Author("service_account_actor", "v"),
            {"type": "service_account_actor", "service_account_id": "v"},
        ),
    ],
)
def test_R164_each_author_has_its_own_member(
    tx: Tx, actor: Actor, author: Author, shown: dict[str, str]
) -> None:
    by = Writer(actor, author, make_writer(tx, actor).store)
    made = memories.create(tx, by, MemoryCreate(path="/a", content=""))
    found, more = memory_versions.find(tx, by.store.id, Query(1, author=author))
    assert not more
    assert found[0].id == made.version_id
    assert memory_versions.present(found[0])["created_by"] == shown


def test_R165_only_what_no_memory_holds_is_redacted(tx: Tx, actor: Actor) -> None:
    writer = make_writer(tx, actor)
    made = memories.create(tx, writer, MemoryCreate(path="/a", content="x"))
    with pytest.raises(InvalidRequest):
        memory_versions.redact(tx, writer, made.version_id)
    memories.change(tx, writer, made.id, MemoryUpdate(path="/b"))
    redacted = memory_versions.redact(tx, writer, made.version_id)
    assert (redacted.path, redacted.content, redacted.sha256) == (None, None, None)
    assert memory_versions.redact(tx, writer, made.version_id) == redacted
    assert memory_versions.contents(tx, [made.version_id]) == {}
    with pytest.raises(NotFound):
        memory_versions.get(tx, "memstore_other", made.version_id)
