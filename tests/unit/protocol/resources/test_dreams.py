from typing import Any

import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.dreams import FINAL, DreamCreate

STORE: Any = {"type": "memory_store", "memory_store_id": "memstore_1"}
SESSIONS: Any = {"type": "sessions", "session_ids": ["sesn_2", "sesn_1"]}


def create(**body: Any) -> DreamCreate:
    return DreamCreate.model_validate({"inputs": [STORE, SESSIONS], "model": "m", **body})


def test_R236_R237_what_was_sent_in_either_form() -> None:
    made = create(inputs=[SESSIONS, STORE])
    assert (made.store_id, made.session_ids, made.model_id) == (
        "memstore_1",
        ["sesn_1", "sesn_2"],
        "m",
    )
    assert create(model={"id": "n", "speed": None}).model_id == "n"


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": [STORE]},
        {"inputs": [STORE, SESSIONS, SESSIONS]},
        {"inputs": [STORE, {**SESSIONS, "session_ids": ["a", "a"]}]},
        {"inputs": [STORE, {**SESSIONS, "session_ids": [str(n) for n in range(101)]}]},
        {"inputs": [STORE, {**SESSIONS, "more": 1}]},
        {"model": {"id": "m", "speed": "fast"}},
        {"model": {"speed": "standard"}},
        {"instructions": ""},
        {"instructions": "i" * 4097},
        {"output_behavior": {"type": "update_existing"}},
        {"output_behavior": {"type": "create_new", "memory_store_id": "memstore_1"}},
        {"output_behavior": {"type": "replace"}},
        {"metadata": {}},
    ],
)
def test_R236_R237_R238_R239_what_cannot_be(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        create(**body)


def test_R242_three_statuses_are_final() -> None:
    assert {"completed", "failed", "canceled"} == FINAL
