from pathlib import Path

import pytest

from intramuros.cli.workload import credentials_of
from intramuros.kernel.errors import OperatorError

NAMES = ("FEDERATION_RULE_ID", "ORGANIZATION_ID", "WORKSPACE_ID", "IDENTITY_TOKEN")


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for prefix in ("INTRAMUROS", "ANTHROPIC"):
        for name in (*NAMES, "IDENTITY_TOKEN_FILE"):
            monkeypatch.delenv(f"{prefix}_{name}", raising=False)


def test_without_a_rule_there_is_no_exchange(tmp_path: Path) -> None:
    assert credentials_of(None, None, None, None) is None
    assert credentials_of(None, "org", "default", tmp_path / "token") is None


def test_flags_and_environment_say_who_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("from-a-file\n")
    made = credentials_of("fdrl_1", "org", None, tmp_path / "token")
    assert made is not None
    assert made._identity_token_provider() == "from-a-file"
    (tmp_path / "token").write_text("renewed")
    assert made._identity_token_provider() == "renewed"
    monkeypatch.setenv("ANTHROPIC_FEDERATION_RULE_ID", "fdrl_2")
    monkeypatch.setenv("ANTHROPIC_ORGANIZATION_ID", "org")
    monkeypatch.setenv("INTRAMUROS_IDENTITY_TOKEN", "from-the-environment")
    made = credentials_of(None, None, None, None)
    assert made is not None
    assert made._identity_token_provider() == "from-the-environment"


@pytest.mark.rule("R333")
def test_it_needs_an_organization_and_exactly_one_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OperatorError, match="organization"):
        credentials_of("fdrl_1", None, None, tmp_path / "token")
    with pytest.raises(OperatorError, match="exactly one"):
        credentials_of("fdrl_1", "org", None, None)
    monkeypatch.setenv("INTRAMUROS_IDENTITY_TOKEN", "x")
    with pytest.raises(OperatorError, match="exactly one"):
        credentials_of("fdrl_1", "org", None, tmp_path / "token")
