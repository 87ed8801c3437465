from pathlib import Path

import pytest

from intramuros.control.metering.groups import MAX_BYTES, OTHERS, Groups, load_groups
from intramuros.control.model.catalogue import Catalogue
from intramuros.kernel.errors import OperatorError

FILE = """
groups:
  - {display_name: Claude Opus 4.x, limits: {requests_per_minute: 50}}
  - {display_name: Ours, models: [local/one, claude-sonnet-5], limits: {tokens_per_day: 9}}
  - {type: files, limits: {requests_per_minute: 100}}
"""


def test_families_share_a_group_and_the_unknown_have_one(groups: Groups) -> None:
    opus = groups.of_model("claude-opus-4-8")
    assert opus.display_name == "Claude Opus 4.x"
    assert opus is groups.find("claude-opus-4-5-20251101")
    assert opus is not groups.of_model("claude-opus-5")
    assert groups.find("who/knows") is None
    assert groups.of_model("who/knows").display_name == OTHERS
    assert groups.of_type("skills").models() is None
    assert {g.type for g in groups.all} == {"model_group", "token_count", "files", "skills"}


def test_every_model_is_in_exactly_one_group(groups: Groups, known: Catalogue) -> None:
    listed = [name for group in groups.all for name in group.names]
    assert len(listed) == len(set(listed))
    assert {entry.id for entry in known.entries} <= set(listed)


def test_ids_of_groups_are_the_same_everywhere_and_entries_are_not(
    groups: Groups, known: Catalogue
) -> None:
    other = load_groups(known, "another")
    assert [g.id for g in other.all] == [g.id for g in groups.all]
    assert not {g.entry_id for g in other.all} & {g.entry_id for g in groups.all}
    first = groups.all[0]
    assert groups.entry(first.entry_id) is first
    assert groups.by_id(first.id) is first


def test_the_operators_file_sets_limits_and_moves_models(tmp_path: Path, known: Catalogue) -> None:
    (tmp_path / "f").write_text(FILE)
    found = load_groups(known, "org", tmp_path / "f")
    assert found.of_model("claude-opus-4-8").limits == {"requests_per_minute": 50}
    ours = found.of_model("local/one")
    assert (ours.display_name, ours.limits) == ("Ours", {"tokens_per_day": 9})
    assert found.of_model("claude-sonnet-5") is ours
    assert "claude-sonnet-5" not in found.of_model("claude-sonnet-5-5").names
    assert found.of_type("files").limits == {"requests_per_minute": 100}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("groups: [{display_name: Claude Opus 9.x, limits: {}}]", "unknown group"),
        ("groups: [{limits: {requests_per_minute: 1}}]", "without a name"),
        ("groups: [{type: files, limits: {tokens_per_day: 1}}]", "tokens_per_day of files"),
        ("groups: [{type: files, limits: {tool_uses_per_second: 1}}]", "tool_uses_per_second"),
        ("groups: [{type: files, limits: {requests_per_minute: -1}}]", "no list of limits"),
        ("groups: [{type: files, limits: {widgets: 1}}]", "no list of limits"),
        ("groups: 5", "no list of limits"),
        ("{", "no YAML"),
        ("x" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, known: Catalogue, text: str, says: str) -> None:
    (tmp_path / "f").write_text(text)
    with pytest.raises(OperatorError, match=says):
        load_groups(known, "org", tmp_path / "f")
    with pytest.raises(OperatorError, match="cannot read"):
        load_groups(known, "org", tmp_path / "none")
