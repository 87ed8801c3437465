import re
from decimal import Decimal
from pathlib import Path

import pytest

from intramuros.control.model.catalogue import (
    MAX_BYTES,
    UNKNOWN_DATE,
    load_catalogue,
    shipped_catalogue,
)
from intramuros.kernel.errors import InvalidRequest, OperatorError

OWN = """
models:
  - id: house-7b
    display_name: House 7B
    aliases: [house]
    effort: {default: low, levels: [low, medium]}
    speeds: []
    prices: {standard: {input: "0.1", output: "0.2", cache_read: "0",
                        cache_write_5m: "0", cache_write_1h: "0"}}
  - {id: claude-opus-5, display_name: Opus behind our proxy}
"""


def test_ids_and_aliases_find_the_same_model_and_strangers_none() -> None:
    known = shipped_catalogue()
    assert known.find("claude-haiku-4-5") is known.find("claude-haiku-4-5-20251001")
    assert known.find("some-model-of-yours") is None


def test_prices_are_exact_and_follow_the_speed() -> None:
    known = shipped_catalogue()
    standard, fast = known.price("claude-opus-5"), known.price("claude-opus-5", "fast")
    assert standard is not None
    assert fast is not None
    assert (standard.input, standard.cache_write_5m) == (Decimal(5), Decimal("6.25"))
    assert fast.output == 2 * standard.output
    assert known.price("claude-haiku-4-5", "fast") is None
    assert known.price("some-model-of-yours") is None


def test_only_known_lacks_are_refused() -> None:
    known = shipped_catalogue()
    for model, effort, speed in (
        ("claude-opus-5", "max", "fast"),
        ("claude-opus-5-5", "xhigh", "fast"),  # listed, but what it takes is not known
        ("some-model-of-yours", "max", "fast"),
        ("claude-haiku-4-5", "high", "standard"),  # the default is the same as none
        ("claude-haiku-4-5", None, None),
    ):
        known.check(model, effort, speed)
    for model, effort, speed, named in (
        ("claude-haiku-4-5", "low", None, "model.effort: .* no effort"),
        ("claude-opus-4-6", "xhigh", None, "low, medium, high, max"),
        ("claude-opus-4-6", None, "fast", "model.speed"),
    ):
        with pytest.raises(InvalidRequest, match=named):
            known.check(model, effort, speed)


def test_a_file_of_the_operator_adds_and_wins(tmp_path: Path) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(OWN)
    known = load_catalogue(file)
    assert known.default_effort("house") == "low"
    assert [entry.id for entry in known.entries[:2]] == ["house-7b", "claude-opus-5"]
    replaced = known.find("claude-opus-5")
    assert replaced is not None
    assert (replaced.display_name, replaced.prices) == ("Opus behind our proxy", None)
    assert known.find("claude-sonnet-5") == shipped_catalogue().find("claude-sonnet-5")


def test_scripts_are_listed_last_and_said_to_be_scripts(tmp_path: Path) -> None:
    (tmp_path / "audit.yaml").write_text("steps: []")
    last = load_catalogue(scripts=tmp_path).entries[-1]
    assert (last.id, last.display_name) == ("scripted/audit", "Script audit (no real model)")
    assert last.info()["created_at"] == UNKNOWN_DATE


def test_the_operators_entry_for_a_script_wins(tmp_path: Path) -> None:
    (tmp_path / "audit.yaml").write_text("steps: [{text: hello}]")
    own = tmp_path / "own"
    own.write_text(OWN.replace("claude-opus-5", "scripted/audit"))
    found = [e for e in load_catalogue(own, tmp_path).entries if e.id == "scripted/audit"]
    assert [entry.display_name for entry in found] == ["Opus behind our proxy"]


def test_what_is_not_known_is_null_and_effort_is_spelled_out() -> None:
    known = shipped_catalogue()
    stranger, opus = known.find("claude-opus-5-5"), known.find("claude-opus-4-6")
    assert stranger is not None
    assert opus is not None
    assert (stranger.info()["capabilities"], stranger.info()["max_tokens"]) == (None, None)
    effort = opus.info()["capabilities"]["effort"]
    assert (effort["max"], effort["xhigh"]) == ({"supported": True}, {"supported": False})
    assert known.takes_effort("claude-opus-5-5")
    assert not known.takes_effort("claude-sonnet-4-5")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "no YAML"),
        ("[]", "no list of models"),
        ("models: [{id: a, display_name: A, efort: null}]", "efort"),
        ("models: [{id: a, display_name: A}, {id: b, aliases: [a], display_name: B}]", "twice"),
        ("#" * (MAX_BYTES + 1), "larger"),
        ("models: [{id: a, display_name: A, provider: p}]", "not listed"),
        ("models: [{id: a, display_name: A, upstream_model: b}]", "needs a provider"),
        ("models: [{id: a, display_name: A, fallback: [a]}]", "other models"),
        ("models: [{id: a, display_name: A, like: nobody}]", "like"),
        ("models: [{id: a, display_name: A, fallback_after: 9}]", "fallback_after"),
        ("{models: [], providers: [{id: p, kind: other}]}", "providers.0"),
        ("models: [{id: a, display_name: A, fallback: [b, b]}]", "other models"),
        (
            "{models: [], providers: [{id: p, kind: openai, base_url: 'http://h'},"
            " {id: p, kind: openai, base_url: 'http://h'}]}",
            "provider appears twice",
        ),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(text)
    with pytest.raises(OperatorError, match=problem):
        load_catalogue(file)
    with pytest.raises(OperatorError, match="--models-file"):
        load_catalogue(tmp_path / "none.yaml")


def test_an_entry_can_be_like_a_shipped_one(tmp_path: Path) -> None:
    file = tmp_path / "models"
    file.write_text(
        "{providers: [{id: aws, kind: bedrock, region: eu-west-1}], models: [{id: claude-opus-5,"
        " like: claude-opus-5, provider: aws, upstream_model: eu.opus, max_tokens: 1000}]}"
    )
    known = load_catalogue(file)
    found, shipped = known.find("claude-opus-5"), shipped_catalogue().find("claude-opus-5")
    assert found is not None
    assert shipped is not None
    assert (found.prices, found.effort, found.features) == (
        shipped.prices,
        shipped.effort,
        shipped.features,
    )
    assert (found.provider, found.upstream_model, found.max_tokens) == ("aws", "eu.opus", 1000)


@pytest.mark.rule("c13_17")
def test_which_models_take_operator_text_later() -> None:
    known = shipped_catalogue()
    for takes in ("claude-opus-5", "claude-opus-4-8", "claude-fable-5", "nobody-knows-it"):
        known.check_system_messages(takes)
    for lacks in ("claude-sonnet-5", "claude-haiku-4-5", "claude-opus-4-7"):
        with pytest.raises(InvalidRequest) as refused:
            known.check_system_messages(lacks)
        assert "model_does_not_support_mid_conversation_system" in refused.value.message


def test_the_examples_of_the_documentation_are_read(tmp_path: Path) -> None:
    page = Path(__file__).parents[4] / "docs" / "how-to" / "models.md"
    examples = re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.M | re.S)
    assert len(examples) == 2
    for example in examples:
        (tmp_path / "models").write_text(example)
        known = load_catalogue(tmp_path / "models")
        assert known.providers
        assert all(known.find(name) for entry in known.entries for name in entry.fallback)
