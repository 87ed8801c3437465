"""What becomes of pages; the confinement is tested where it is used (test_reader.py)."""

import resource
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from intramuros.web import inside

PAGE = """<!DOCTYPE html><html><head><title> A &amp;\n b </title><base href="/docs/"></head><body>
<nav><a href="/nav">nav</a></nav><main><h1>Head_line</h1>
<p>a_b &lt;x&gt; <a href="../q?a=1&amp;b=2#part">link</a> <a href="javascript:x()">js</a></p>
<div hidden>unseen</div><script>bad()</script><style>x{}</style><noscript>no</noscript>
<table><tr><td><a href="t">cell</a></td></tr></table>
<pre>c\n  a_b &lt;</pre></main></body></html>"""


def test_a_page_becomes_markdown_with_absolute_links() -> None:
    title, text = inside.read(PAGE, "https://x.com/a/b")
    assert title == "A & b"
    assert text.startswith("# Head_line\n\na_b <x> [link](https://x.com/q?a=1&b=2)")
    assert 'href="https://x.com/docs/t"' in text
    assert "```\nc\n  a_b <\n```" in text
    for gone in ("javascript", "unseen", "bad()", "x{}", "nav"):
        assert gone not in text


def test_a_page_without_one_main_part_is_read_as_a_whole() -> None:
    assert "nav" in inside.read(PAGE.replace("main>", "div>"), "https://x.com/")[1]
    assert inside.read("<main>a</main><main>b</main>", "https://x.com/")[1] == "a\n\nb"
    assert inside.read("", "https://x.com/") == ("", "")
    assert inside.read("just text", "https://x.com/") == ("", "just text")


def test_a_base_that_leads_nowhere_is_ignored() -> None:
    for base in ("javascript:x", "http://[", "data:text/html,x"):
        text = inside.read(f'<base href="{base}"><a href="y">z</a>', "https://x.com/a/")[1]
        assert text == "[z](https://x.com/a/y)"


@given(st.text(alphabet="<>/!-ab=\"' &;#x0tdrpihe", max_size=200))
def test_any_text_is_a_page(text: str) -> None:
    title, content = inside.read(text, "https://x.com/")
    assert isinstance(title, str)
    assert isinstance(content, str)


def test_the_script_can_do_nothing_else() -> None:
    """What it may still do is shown by itself, from within."""
    probe = """
import runpy, socket, os, sys
inside = runpy.run_path(sys.argv[1])
inside["confine"]()
for attempt in (
    lambda: open(sys.argv[1]),
    lambda: socket.socket(),
    lambda: os.pipe(),
    lambda: bytearray(4 << 30),
):
    try:
        attempt()
    except (OSError, MemoryError):
        print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", probe, str(Path(inside.__file__))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["refused"] * 4
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0, "only there"
