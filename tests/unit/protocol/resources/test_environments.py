import pytest
from pydantic import ValidationError

from intramuros.protocol.resources.environments import EnvironmentCreate, EnvironmentUpdate


@pytest.mark.parametrize(
    "config",
    [
        {"type": "managed"},
        {"type": "self_hosted", "packages": {}},
        {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": ["https://x.com"]}},
        {"type": "cloud", "networking": {"type": "unrestricted", "allowed_hosts": []}},
        {"type": "cloud", "packages": {"brew": ["x"]}},
        {"type": "cloud", "packages": {"pip": ["--index-url=evil"]}},
        {"type": "cloud", "packages": {"pip": ["a b"]}},
        {"type": "cloud", "packages": {"pip": [""]}},
    ],
)
@pytest.mark.rule("c8_2", "c8_5")
def test_configurations_are_checked(config: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EnvironmentCreate.model_validate({"name": "e", "config": config})


def test_null_and_left_out_differ_where_they_must() -> None:
    assert EnvironmentUpdate.model_validate({"description": None}).sent("description")
    assert not EnvironmentUpdate.model_validate({}).sent("description")
    assert EnvironmentCreate.model_validate({"name": "e", "config": None}).config is None
