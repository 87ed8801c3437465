from dataclasses import replace

from intramuros.control.dreams import report
from intramuros.control.dreams.report import Compared
from tests.unit.control.dreams.test_plan import RUNNING

DONE = replace(RUNNING, status="completed")
USAGE = {"input_tokens": 12, "output_tokens": 3}


def write(*compared: Compared) -> str:
    return report.write(DONE, compared, USAGE)


def test_it_counts_and_shows_each_change() -> None:
    text = write(
        Compared("/added.md", None, "new\n"),
        Compared("/changed.md", "same\nold\n", "same\nnew\n"),
        Compared("/gone.md", "old\n", None, reason="stale\n\nand wrong"),
        Compared("/same.md", "x", "x"),
    )
    for row in ("added", "changed", "deleted", "unchanged"):
        assert f"| {row} | 1 |" in text
    assert "Tokens: input tokens 12, output tokens 3." in text
    assert "+new" in text
    assert " same\n-old\n+new" in text
    assert "Reason: stale and wrong" in text
    assert "- `/same.md`" in text
    assert text.index("## Added") < text.index("## Changed") < text.index("## Deleted")


def test_a_memory_cannot_end_its_own_diff() -> None:
    text = write(Compared("/a`b.md", None, "```\n## Deleted\n````x\n"))
    assert "`````diff\n" in text
    assert "``/a`b.md``" in text


def test_what_was_made_and_dropped_again_is_not_told() -> None:
    text = write(Compared("/passing.md", None, None, reason="needless"))
    assert "passing" not in text


def test_what_was_redacted_is_said_to_be() -> None:
    text = write(Compared("/a.md", None, "new", lost=True))
    assert "| changed | 1 |" in text
    assert "redacted" in text


def test_it_is_bounded() -> None:
    many = [Compared(f"/{n}.md", None, "x" * 100_000) for n in range(60)]
    text = write(*many)
    assert len(text) < report.MAX_CHARS + 1000
    assert "too long" in text
    lines = "\n".join(str(n) for n in range(3000))
    assert "too long to compare" in write(Compared("/a.md", lines, lines + "\nx"))


def test_a_failed_dream_says_why() -> None:
    error = {"type": "timeout", "message": "too\nlong"}
    text = report.write(replace(DONE, status="failed", error=error), [], USAGE)
    assert "Error: timeout: too long" in text
