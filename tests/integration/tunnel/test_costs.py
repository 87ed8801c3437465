"""What the tunnel costs beside direct TLS, in one run: what must never come back unnoticed.

The bounds are several times what is measured by hand (python -m benchmarks.tunnel), because other
work shares the machine: they find a stall, a copy for each byte or a round trip more, not a few
per cent.
"""

from pathlib import Path
from typing import Any

import pytest
from benchmarks.tunnel import run

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
# Times over direct TLS: a stall of delayed acknowledgements alone makes calls 10 times as long.
SLOWER = {"mcp_call": 6.0, "post_1k": 10.0}
# Parts of direct TLS.
LESS = {"mcp_calls_per_s_c32": 0.15, "posts_per_s_c32": 0.1, "bulk_mb_per_s": 0.08}
ROUNDS = 24
ATTEMPTS = 3


async def test_t40_calls_and_bulk_through_the_tunnel_stay_near_direct_tls(tmp_path: Path) -> None:
    broken: list[str] = []
    for attempt in range(ATTEMPTS):
        home = tmp_path / str(attempt)
        home.mkdir()
        result: dict[str, Any] = await run(home, ROUNDS)
        broken = [
            f"{name}: {result[name]}"
            for name, most in SLOWER.items()
            if result[name]["tunnel"]["p50_ms"] > most * result[name]["direct_tls"]["p50_ms"]
        ] + [
            f"{name}: {result[name]}"
            for name, least in LESS.items()
            if result[name]["tunnel"] < least * result[name]["direct_tls"]
        ]
        if not broken:
            return
    pytest.fail("\n".join(broken))
