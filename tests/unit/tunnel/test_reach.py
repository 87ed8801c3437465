from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import anyio
import pytest

from intramuros.tunnel.destinations import Destinations
from intramuros.tunnel.reach import Lease, Reach
from intramuros.tunnel.routes import RouteTable, Upstream

if TYPE_CHECKING:
    from intramuros.tunnel.destinations import RequestHandler

DOMAIN = "t.example"
ONE, TWO = Upstream("http", "10.0.0.5", 80), Upstream("http", "10.0.0.6", 80)
OLD = Destinations(cast("RequestHandler", None), {})
NEW = Destinations(cast("RequestHandler", None), {})


def reach() -> Reach:
    return Reach(RouteTable({"docs": ONE}, DOMAIN), OLD)


def test_a_lease_keeps_what_it_began_with() -> None:
    held = reach()
    with held.lease(f"docs.{DOMAIN}", streams=False) as lease:
        assert lease is not None
        held.replace(RouteTable({"docs": TWO}, DOMAIN), NEW)
        assert (lease.route.upstream, lease.destinations) == (ONE, OLD)
        with held.lease(f"docs.{DOMAIN}", streams=True) as later:
            assert later is not None
            assert (later.route.upstream, later.destinations) == (TWO, NEW)
            assert held.held(lambda each: each.streams) == [later]
            assert len(held.held(lambda _: True)) == 2
        assert later.ended.is_set()
        assert not lease.ended.is_set()
    assert held.held(lambda _: True) == []


def test_what_has_no_route_has_no_lease() -> None:
    held = reach()
    with held.lease(f"wiki.{DOMAIN}", streams=False) as lease:
        assert lease is None
    assert held.serves(f"wiki.{DOMAIN}")
    assert not held.serves("wiki.example")
    assert held.table.routes == {"docs": ONE}


def test_a_lease_ends_however_its_request_does() -> None:
    held = reach()
    with ExitStack() as stack:
        lease = stack.enter_context(held.lease(f"docs.{DOMAIN}", streams=False))
        stack.enter_context(pytest.raises(ZeroDivisionError))
        raise ZeroDivisionError
    assert lease is not None
    assert lease.ended.is_set()


@pytest.mark.anyio
@pytest.mark.parametrize("before", [True, False])
async def test_what_is_cut_off_is_cancelled_also_if_it_was_not_sent_yet(before: bool) -> None:
    with reach().lease(f"docs.{DOMAIN}", streams=True) as lease:
        assert isinstance(lease, Lease)
        if before:
            lease.cut_off()
        with anyio.fail_after(30), anyio.CancelScope() as scope:
            lease.bind(scope)
            lease.cut_off()
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert lease.cut
