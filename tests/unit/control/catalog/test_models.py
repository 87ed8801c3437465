import pytest

from intramuros.control.catalog.models import overridden, settle
from intramuros.control.model.catalogue import Catalogue, ModelEntry
from intramuros.kernel.errors import InvalidRequest
from intramuros.protocol.resources.agents import ModelConfig

LOW = ModelEntry.model_validate(
    {
        "id": "calm",
        "display_name": "Calm",
        "effort": {"default": "low", "levels": ["low", "medium"]},
        "speeds": [],
    }
)
KNOWN = Catalogue([LOW])


def test_c5_4_the_default_is_the_models_own() -> None:
    assert settle(KNOWN, "calm")["effort"] == {"type": "low"}
    assert settle(KNOWN, "stranger")["effort"] == {"type": "high"}


def test_c5_14_the_stored_effort_stays_with_its_model() -> None:
    stored = settle(KNOWN, ModelConfig(id="calm", effort="medium"))
    assert settle(KNOWN, "calm", stored)["effort"] == {"type": "medium"}
    assert settle(KNOWN, "stranger", stored)["effort"] == {"type": "high"}


def test_c5_5_what_a_model_lacks_is_refused() -> None:
    for lacking in (ModelConfig(id="calm", effort="max"), ModelConfig(id="calm", speed="fast")):
        with pytest.raises(InvalidRequest, match="calm"):
            settle(KNOWN, lacking)


def test_an_override_runs_at_the_models_default() -> None:
    assert overridden(KNOWN, ModelConfig(id="calm", effort="medium"))["effort"] == {"type": "low"}
    with pytest.raises(InvalidRequest):
        overridden(KNOWN, ModelConfig(id="calm", speed="fast"))
