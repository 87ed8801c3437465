import pytest
from anthropic import Anthropic

from intramuros.protocol.not_served import NOT_SERVED, left_out, page


@pytest.mark.parametrize("entry", NOT_SERVED, ids=lambda entry: entry.path)
def test_every_entry_is_a_resource_of_the_sdk_and_on_the_page(entry) -> None:  # type: ignore[no-untyped-def]  # pytest's parameter
    found: object = Anthropic(api_key="x")
    for name in filter(None, entry.sdk.split(".")):
        found = getattr(found, name)
    shown = f"`{entry.sdk}`" if entry.sdk else "\u2014"
    assert f"| `{entry.path}` | {shown} | {entry.why} |" in page()


def test_what_lies_below_falls_under_it_and_neighbours_do_not() -> None:
    below = left_out("/v1/organizations/plugins/p_1/versions")
    assert below is not None
    assert below.path == "/v1/organizations/plugins"
    assert left_out("/v1/organizations/plugins") is below
    assert left_out("/v1/organizations/plugins2") is None
    assert left_out("/v1/organizations/workspaces") is None
