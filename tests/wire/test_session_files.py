"""Files of cloud sessions as clients see them: mounted, listed, removed, refused."""

from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from tests.wire.site import Site
from tests.wire.structure import check

pytestmark = pytest.mark.anyio
UPLOADS = "/mnt/session/uploads"


def upload(client: Anthropic, name: str = "data.csv") -> str:
    return client.beta.files.upload(file=(name, b"a,b\n1,2\n")).id


def session(site: Site, *resources: Any, environment_id: str | None = None) -> Any:
    return site.session(
        environment_id=environment_id or site.environment("cloud"), resources=list(resources)
    )


def file(file_id: str, place: str | None = None) -> Any:
    return {"type": "file", "file_id": file_id, **({"mount_path": place} if place else {})}


def test_c11_3_c11_4_R183_R184_a_mounted_file_is_the_sessions_own_copy(site: Site) -> None:
    client = site.api
    original = upload(client)
    made = session(site, file(original), file(original, "/in/data.csv"))
    check(made, nullable=False)
    first, second = made.resources
    for shown in (first, second):
        check(shown)
        assert shown.type == "file"
        assert shown.id.startswith("sesrsc_")
    assert first.mount_path == f"{UPLOADS}/{original}"
    assert second.mount_path == f"{UPLOADS}/in/data.csv"
    assert len({original, first.file_id, second.file_id}) == 3
    copy = client.beta.files.retrieve_metadata(first.file_id)
    check(copy)
    assert (copy.filename, copy.scope and copy.scope.id) == ("data.csv", made.id)
    # The original may go; the copies stay, and go with the session.
    client.beta.files.delete(original)
    scoped = list(client.beta.files.list(scope_id=made.id))
    assert {found.id for found in scoped} == {first.file_id, second.file_id}
    client.beta.sessions.delete(made.id)
    with pytest.raises(anthropic.NotFoundError):
        client.beta.files.retrieve_metadata(first.file_id)


def test_c1_13_scope_needs_no_header_here(site: Site) -> None:
    made = session(site, file(upload(site.api)))
    for betas in ([], ["managed-agents-2026-04-01"]):
        assert len(list(site.api.beta.files.list(scope_id=made.id, betas=betas))) == 1


def test_c11_2_R182_R186_files_come_and_go_while_the_session_lives(site: Site) -> None:
    resources = site.api.beta.sessions.resources
    made = session(site)
    added = [
        resources.add(made.id, type="file", file_id=upload(site.api), mount_path=f"/{n}.csv")
        for n in range(3)
    ]
    for shown in added:
        check(shown)
        assert resources.retrieve(shown.id, session_id=made.id) == shown
    assert list(resources.list(made.id)) == added
    assert [shown.id for shown in resources.list(made.id, limit=2)] == [one.id for one in added]
    assert resources.list(made.id, limit=2).has_next_page()
    gone = resources.delete(added[1].id, session_id=made.id)
    check(gone)
    assert (gone.id, gone.type) == (added[1].id, "session_resource_deleted")
    assert list(resources.list(made.id)) == [added[0], added[2]]
    with pytest.raises(anthropic.NotFoundError):
        resources.delete(added[1].id, session_id=made.id)
    with pytest.raises(anthropic.NotFoundError):
        site.api.beta.files.retrieve_metadata(added[1].file_id)
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        resources.list(made.id, limit=1001)


async def test_the_same_by_the_async_client(site: Site, async_client: AsyncAnthropic) -> None:
    resources = async_client.beta.sessions.resources
    made = session(site)
    raw = await resources.with_raw_response.add(
        made.id, type="file", file_id=upload(site.api), mount_path="/a"
    )
    added = await raw.parse()
    assert await resources.retrieve(added.id, session_id=made.id) == added
    assert [shown async for shown in resources.list(made.id)] == [added]
    async with resources.with_streaming_response.delete(added.id, session_id=made.id) as answer:
        assert (await answer.parse()).type == "session_resource_deleted"


def test_c11_8_R395_only_repositories_have_tokens(site: Site) -> None:
    made = session(site, file(upload(site.api)))
    with pytest.raises(anthropic.BadRequestError, match="has no token"):
        site.api.beta.sessions.resources.update(
            made.resources[0].id, session_id=made.id, authorization_token="t"
        )


def test_c8_13_R397_self_hosted_environments_mount_memory_alone(site: Site) -> None:
    url = "https://github.com/octo/repo"
    for resource in (file(upload(site.api)), {"type": "github_repository", "url": url}):
        with pytest.raises(anthropic.BadRequestError, match=site.environment_id):
            session(site, resource, environment_id=site.environment_id)
    made = session(site, environment_id=site.environment_id)
    with pytest.raises(anthropic.BadRequestError, match=site.environment_id):
        site.api.beta.sessions.resources.add(made.id, **file(upload(site.api)))


@pytest.mark.parametrize(
    "place",
    ["data.csv", "/../x", "/a//b", "/a/./b", "/", f"{UPLOADS}/../x", "/a\nb", "/" + "x/" * 30],
)
def test_places_that_cannot_be_are_refused(site: Site, place: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="mount_path"):
        session(site, file(upload(site.api), place))


@pytest.mark.parametrize("pair", [("/a", "/a"), ("/a", "/a/b"), ("/a/b", f"{UPLOADS}/a")])
def test_files_in_each_others_way_are_refused(site: Site, pair: tuple[str, str]) -> None:
    one = upload(site.api)
    with pytest.raises(anthropic.BadRequestError, match="in each other's way"):
        session(site, *(file(one, place) for place in pair))
    assert list(site.api.beta.files.list(scope_id="sesn_none")) == []


@pytest.mark.timeout(240)
def test_c11_1_at_most_500_files(site: Site) -> None:
    one = upload(site.api)
    many = [file(one, f"/{n}") for n in range(501)]
    with pytest.raises(anthropic.BadRequestError, match="500"):
        session(site, *many)
    made = session(site, *many[:500])
    assert len(list(site.api.beta.sessions.resources.list(made.id))) == 500
    with pytest.raises(anthropic.BadRequestError, match="500"):
        site.api.beta.sessions.resources.add(made.id, **many[500])


def test_files_of_nobody_or_of_others_are_not_found(site: Site) -> None:
    with pytest.raises(anthropic.NotFoundError, match="file_absent"):
        session(site, file("file_absent"))


def test_an_archived_session_keeps_what_it_has(site: Site) -> None:
    made = session(site, file(upload(site.api)))
    site.api.beta.sessions.archive(made.id)
    resources = site.api.beta.sessions.resources
    for change in (
        lambda: resources.add(made.id, **file(upload(site.api))),
        lambda: resources.delete(made.resources[0].id, session_id=made.id),
    ):
        with pytest.raises(anthropic.BadRequestError, match="has ended"):
            change()
    assert len(list(resources.list(made.id))) == 1
