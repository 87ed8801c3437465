from pathlib import Path

import pytest

from intramuros.kernel.errors import OperatorError
from intramuros.tunnel.limits import RouteLimits, read_limits
from intramuros.tunnel.sections import Section


def test_a_routes_keys_are_its_limits(tmp_path: Path) -> None:
    section = Section("routes.docs", {"max_concurrent": 2, "calls_per_minute": 60}, tmp_path)
    assert read_limits(section) == RouteLimits(2, 60, None)
    assert read_limits(Section("routes.docs", {}, tmp_path)) == RouteLimits()
    for key, value in (("max_concurrent", 0), ("calls_per_minute", "9"), ("max_body_bytes", 2**24)):
        with pytest.raises(OperatorError, match=f"routes.docs.{key}"):
            read_limits(Section("routes.docs", {key: value}, tmp_path))
