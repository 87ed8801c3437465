import pytest

from intramuros.kernel.timing import ManualClock
from intramuros.tunnel.linktable import Refused
from intramuros.tunnel.pace import BURST_S, Pace

MB = 1_000_000


def test_dials_are_counted_while_they_last_and_by_tunnel() -> None:
    pace = Pace(ManualClock(), max_dials=2)
    with pace.dial("a"), pace.dial("a"), pace.dial("b"):
        assert pace.dials == 3
        with pytest.raises(Refused) as caught, pace.dial("a"):
            pass
        assert caught.value.code == "too_many_streams"
    assert pace.dials == 0
    with pace.dial("a"):
        assert pace.dials == 1


def test_a_tunnel_over_its_rate_waits_and_others_do_not() -> None:
    clock = ManualClock()
    pace = Pace(clock, max_dials=2, bytes_per_s=MB)
    with pace.dial("a") as mine, pace.dial("a") as same, pace.dial("b") as other:
        assert same is mine
        assert pace.owe(mine, int(MB * BURST_S)) == 0
        assert pace.owe(mine, MB) == pytest.approx(1.0)
        # Both dials of a tunnel pay from one account.
        assert pace.owe(same, MB) == pytest.approx(2.0)
        assert pace.owe(other, MB // 10) == 0
        clock.advance(10)
        assert pace.owe(mine, MB // 10) == 0


def test_a_debt_outlives_the_dial_that_made_it() -> None:
    clock = ManualClock()
    pace = Pace(clock, max_dials=1, bytes_per_s=MB)
    with pace.dial("a") as account:
        pace.owe(account, 5 * MB)
    with pace.dial("a") as account:
        assert pace.owe(account, 1) > 4
    clock.advance(60)
    with pace.dial("a"):
        pass
    assert pace._accounts == {}


@pytest.mark.anyio
async def test_without_a_limit_nobody_waits() -> None:
    pace = Pace(ManualClock(), max_dials=1)
    with pace.dial("a") as account:
        await pace.passed(account, 10**12)
