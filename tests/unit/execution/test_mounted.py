from types import SimpleNamespace

from intramuros.execution.mounted import Mounted, items, mounted_of


def test_repositories_are_told_from_other_resources() -> None:
    resources = [
        SimpleNamespace(type="file", id="sesrsc_1"),
        SimpleNamespace(type="github_repository", id="sesrsc_2", updated_at="now"),
        SimpleNamespace(),
    ]
    assert mounted_of(resources) == (Mounted("sesrsc_2", "now"),)


def test_a_list_that_is_not_there_is_empty() -> None:
    assert items(SimpleNamespace(a=[1]), "a") == [1]
    assert items(SimpleNamespace(a=None), "a") == items(None, "a") == ()
