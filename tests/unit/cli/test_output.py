import io

import pytest
from rich.console import Console

from intramuros.cli.output import note, say, table

ROWS = [{"id": "a", "name": None}, {"id": "b", "name": "x"}]


def test_results_and_notes_go_apart(capsys: pytest.CaptureFixture[str]) -> None:
    say("result")
    note("note")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("result\n", "note\n")


def test_without_a_terminal_rows_are_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    table(("id", "name"), ROWS)
    assert capsys.readouterr().out == "a\t\nb\tx\n"


def test_on_a_terminal_rows_are_a_table() -> None:
    screen = io.StringIO()
    table(("id", "name"), ROWS, Console(file=screen, force_terminal=True, width=40))
    assert "id" in screen.getvalue()
