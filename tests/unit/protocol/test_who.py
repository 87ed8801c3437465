from typing import Any

import pytest

from intramuros.protocol.who import (
    MAX_GROUPS,
    MAX_PEOPLE,
    NOBODY_KNOWN,
    BadWho,
    Group,
    Kind,
    Who,
    read_people,
)

ANN = Who(Kind.USER, "user_1", "ann@example.com", (Group("rbac_group_1", "Ops"),))


def test_a_claim_reads_as_it_was_written() -> None:
    people = (ANN, Who(Kind.API_KEY, "apikey_1"), Who(Kind.DEPLOYMENT, "depl_1"))
    assert read_people([who.claim() for who in people]) == people
    assert Who(Kind.API_KEY, "apikey_1").claim() == {"kind": "api_key", "id": "apikey_1"}
    assert read_people(None) == read_people([]) == ()


def test_a_kind_from_the_future_is_nobody_known() -> None:
    assert read_people([{"kind": "robot", "id": "r_1"}]) == (NOBODY_KNOWN,)


@pytest.mark.parametrize(
    "claim",
    [
        "ann",
        ["ann"],
        [{"kind": "user", "id": ""}],
        [{"kind": "user", "id": "x" * 200}],
        [{"kind": "user", "id": 7}],
        [{"kind": "user", "id": "user_1", "groups": "ops"}],
        [{"kind": "user", "id": "user_1", "groups": ["ops", "dev"]}],
        [{"kind": "user", "id": "user_1", "groups": [["g", "n", "?"]]}],
        [{"kind": "user", "id": "user_1", "groups": [["g", "n"]] * (MAX_GROUPS + 1)}],
        [{"kind": "user", "id": "user_1"}] * (MAX_PEOPLE + 1),
    ],
)
def test_a_malformed_claim_is_refused(claim: Any) -> None:
    with pytest.raises(BadWho):
        read_people(claim)
