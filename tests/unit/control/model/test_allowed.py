from pathlib import Path

import pytest

from intramuros.control.model.allowed import AllowList, refused
from intramuros.control.model.catalogue import Catalogue, load_catalogue


@pytest.fixture
def known(tmp_path: Path) -> Catalogue:
    file = tmp_path / "models"
    file.write_text("models: [{id: house-7b, aliases: [house], display_name: H}]")
    return load_catalogue(file)


@pytest.mark.parametrize(
    ("pattern", "permitted", "others"),
    [
        ("house-7b", ["house-7b", "house"], ["house-7b-2", "house-"]),
        ("house", ["house-7b", "house"], ["houses"]),
        ("house-*", ["house-7b", "house", "house-x"], ["horse", "House-7b"]),
        ("*", ["house", "anything"], []),
        ("scripted/*", ["scripted/a"], ["scripted"]),
    ],
)
def test_a_model_is_known_by_all_its_names(
    known: Catalogue, pattern: str, permitted: list[str], others: list[str]
) -> None:
    allowed = AllowList.of([pattern])
    assert refused([*permitted, *others], allowed, known) == others


def test_an_empty_list_permits_nothing_and_no_list_everything(known: Catalogue) -> None:
    assert refused(["house", "house"], AllowList.of([]), known) == ["house"]
    assert refused(["house"], None, known) == []
