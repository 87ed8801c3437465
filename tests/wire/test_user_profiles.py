"""User profiles through the official SDK, in both shapes."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from intramuros.kernel.timing import SystemClock
from tests.wire.host import Server, running
from tests.wire.structure import check

pytestmark = pytest.mark.anyio

SINCE = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("profiles") / "data") as started:
        yield started


@pytest.fixture
def api(own: Server) -> Iterator[Anthropic]:
    with Anthropic(base_url=own.base_url, api_key=own.api_key, max_retries=0) as made:
        for profile in made.user_profiles.list(limit=100):
            made.user_profiles.delete(profile.id)
        yield made


@pytest.fixture
async def async_api(api: Anthropic, own: Server) -> AsyncIterator[AsyncAnthropic]:
    made = AsyncAnthropic(base_url=own.base_url, api_key=own.api_key, max_retries=0)
    async with made:
        yield made


def test_R290_the_dated_beta_has_its_details_at_the_top(api: Anthropic) -> None:
    made = api.beta.user_profiles.create(
        external_id="row-7", external_user_onboarded_at=SINCE, name="Ann"
    )
    check(made, nullable=False)
    assert (made.external_id, made.external_user_onboarded_at) == ("row-7", SINCE)
    assert made.external_user_details is None
    assert api.beta.user_profiles.retrieve(made.id) == made
    changed = api.beta.user_profiles.update(made.id, external_id="row-8", name="Bea")
    assert (changed.external_id, changed.name) == ("row-8", "Bea")
    assert changed.external_user_onboarded_at == SINCE
    with pytest.raises(anthropic.BadRequestError, match="external_user_details"):
        api.beta.user_profiles.create(external_user_details={"reference_id": "x"})


def test_R291_without_a_beta_details_are_one_object(api: Anthropic) -> None:
    details: Any = {"reference_id": "row-7", "country": "CH", "onboarded_at": SINCE}
    made = api.user_profiles.create(external_user_details=details, access_type="passthrough")
    check(made)
    assert made.external_user_details.onboarded_at == SINCE
    assert made.external_user_details.email_hash is None
    assert (made.enforcement_status, made.enforcement_actions) == ("unrestricted", [])
    assert api.beta.user_profiles.retrieve(made.id).external_id == "row-7"
    with pytest.raises(anthropic.BadRequestError, match="external_id"):
        api.user_profiles.create(extra_body={"external_id": "x"})
    assert list(api.user_profiles.list(enforcement_status=["banned"])) == []


def test_R292_details_change_but_are_not_cleared(api: Anthropic) -> None:
    made = api.user_profiles.create(external_user_details={"country": "CH", "name_hash": "h"})
    changed = api.user_profiles.update(made.id, external_user_details={"country": "AT"})
    assert (changed.external_user_details.country, changed.external_user_details.name_hash) == (
        "AT",
        "h",
    )
    with pytest.raises(anthropic.BadRequestError, match="not cleared"):
        api.user_profiles.update(made.id, external_user_details={"country": None})
    now = SystemClock().now()
    soon, late = (now + timedelta(seconds=s) for s in (30, 120))
    api.user_profiles.update(made.id, external_user_details={"onboarded_at": soon})
    for at in (late, "yesterday"):
        with pytest.raises(anthropic.BadRequestError, match="onboarded_at"):
            api.user_profiles.update(made.id, external_user_details={"onboarded_at": at})


def test_R293_an_empty_string_deletes_a_key(api: Anthropic) -> None:
    made = api.user_profiles.create(metadata={"a": "1", "b": "2"})
    changed = api.user_profiles.update(made.id, metadata={"a": "", "c": "3"})
    assert changed.metadata == {"b": "2", "c": "3"}
    with pytest.raises(anthropic.BadRequestError, match="metadata"):
        api.user_profiles.create(metadata={"a": ""})


async def test_lists_sort_and_page(api: Anthropic, async_api: AsyncAnthropic) -> None:
    names = ["bob", None, "Ann", "ann", "Zoe"]
    ids = [api.user_profiles.create(name=name).id for name in names]
    assert [p.id for p in api.user_profiles.list(limit=2)] == ids[::-1]
    assert [p.id for p in api.beta.user_profiles.list(limit=2, order="asc")] == ids
    pages = async_api.user_profiles.list(limit=1, order_by="name", order="asc")
    assert [p.name async for p in pages] == ["Ann", "ann", "bob", "Zoe", None]
    down = [p.name async for p in async_api.beta.user_profiles.list(limit=2, order_by="name")]
    assert down == ["Zoe", "bob", "ann", "Ann", None]


def test_a_deleted_profile_is_gone_and_enrolling_is_explained(api: Anthropic) -> None:
    made = api.user_profiles.create()
    with pytest.raises(anthropic.NotFoundError, match="hosted service"):
        api.beta.user_profiles.create_enrollment_url(made.id)
    with pytest.raises(anthropic.NotFoundError, match="hosted service"):
        api.user_profiles.action_urls.create(made.id, action={"type": "enroll_end_user"})
    gone = api.beta.user_profiles.delete(made.id)
    check(gone)
    with pytest.raises(anthropic.NotFoundError):
        api.user_profiles.retrieve(made.id)
