from dataclasses import dataclass, field
from pathlib import Path

import pytest

from intramuros.kernel.config import clean_environment, load
from intramuros.kernel.errors import OperatorError


@dataclass(frozen=True)
class Sample:
    url: str = field(metadata={"env": ("INTRAMUROS_URL", "OTHER_URL")})
    port: int = 7700
    drain_s: float = 30.0
    verbose: bool = False
    key_file: Path | None = None
    hosts: tuple[str, ...] = ()


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    return file


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = write(tmp_path, "url: from-file\nport: 1\ndrain-s: 1\n")
    env = {"INTRAMUROS_URL": "from-env", "INTRAMUROS_PORT": "2"}
    loaded = load(Sample, file=file, env=env, flags={"url": "from-flag", "port": None})
    assert loaded.settings == Sample(url="from-flag", port=2, drain_s=1.0)
    assert loaded.origins == {
        "url": "flag",
        "port": "env INTRAMUROS_PORT",
        "drain_s": "file",
        "verbose": "default",
        "key_file": "default",
        "hosts": "default",
    }


def test_the_first_named_variable_wins_and_empty_ones_are_absent() -> None:
    both = {"INTRAMUROS_URL": "", "OTHER_URL": "second"}
    loaded = load(Sample, env=both)
    assert (loaded.settings.url, loaded.origins["url"]) == ("second", "env OTHER_URL")


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("on", True), ("1", True), ("False", False), ("no", False)]
)
def test_words_for_truth(text: str, value: bool) -> None:
    loaded = load(Sample, env={"INTRAMUROS_URL": "u", "INTRAMUROS_VERBOSE": text})
    assert loaded.settings.verbose is value


def test_lists_and_paths_are_converted(tmp_path: Path) -> None:
    env = {"INTRAMUROS_URL": "u", "INTRAMUROS_HOSTS": "a, b", "INTRAMUROS_KEY_FILE": "~/key"}
    settings = load(Sample, env=env).settings
    assert settings.hosts == ("a", "b")
    assert settings.key_file == Path("~/key").expanduser()
    # Where it was named counts, not where the program goes later.
    relative = load(Sample, flags={"url": "u", "key_file": "keys/one"}).settings
    assert relative.key_file == Path.cwd() / "keys" / "one"
    file = write(tmp_path, "url: u\nhosts: [c, d]\n")
    assert load(Sample, file=file, env={}).settings.hosts == ("c", "d")


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "setting 'url' is missing: pass --url or set INTRAMUROS_URL"),
        ({"INTRAMUROS_PORT": "many"}, "setting 'port'"),
        ({"INTRAMUROS_VERBOSE": "maybe"}, "expected true or false"),
    ],
)
def test_a_wrong_or_missing_value_is_named(env: dict[str, str], says: str) -> None:
    base = {"INTRAMUROS_URL": "u"} if env else {}
    with pytest.raises(OperatorError, match=says):
        load(Sample, env=base | env)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("url: u\nprot: 1\n", "unknown setting 'prot'"),
        ("- a\n- b\n", "must hold a mapping"),
        ("url: [unclosed\n", "is no YAML"),
        ("url: u\nport: true\n", "expected a number"),
        ("url: {a: 1}\n", "expected text"),
        ("url: u\nhosts: 3\n", "expected a list"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(OperatorError, match=says) as caught:
        load(Sample, file=write(tmp_path, text), env={})
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot read"):
        load(Sample, file=tmp_path / "none.yaml", env={})


def test_an_empty_file_means_defaults(tmp_path: Path) -> None:
    assert load(Sample, file=write(tmp_path, ""), env={"INTRAMUROS_URL": "u"}).settings.port == 7700


def test_children_inherit_only_the_named_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    kept = clean_environment()
    assert kept["HOME"] == "/nowhere"
    assert "ANTHROPIC_API_KEY" not in kept
