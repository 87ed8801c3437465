"""Turns one HTML page into Markdown, in a process of its own that can do nothing else.

A page is written by strangers: the parser is pure Python, and it runs where there are no secrets in
the environment, with little time and memory, and with no file or socket to be had. Runs as a
script, knows nothing of the rest, and serves one page: the first line of its input says how to read
what follows, and its output is one JSON object.
"""

import html
import importlib
import json
import os
import pkgutil
import re
import resource
import sys
from typing import Final
from urllib.parse import urljoin

import justhtml
from justhtml import Drop, Element, JustHTML

MIB: Final = 1024 * 1024
# A page that takes longer or more is given up.
CPU_S: Final = 5
MEMORY_BYTES: Final = 1536 * MIB
# Characters of a page that are looked at.
MAX_CHARS: Final = 2 * MIB
MAX_TITLE_CHARS: Final = 300
# What no reader sees, or what no model can use.
_UNSEEN: Final = (
    "script, style, template, noscript, svg, iframe, object, canvas, video, audio, img, picture,"
    "input, select, textarea, button"
)
_REHEARSAL: Final = """<!DOCTYPE html><title>&amp;</title><base href=/><p>x<a href=y>z</a>
<table><tr><td>1</table><pre>c</pre><ol><li>1</ol><b>b</b><template>t</template><svg><a/></svg>"""
_ESCAPED: Final = re.compile(r"\\([\\`*_{}\[\]()#+.!|<>~-])")
_CODE: Final = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_BLANKS: Final = re.compile(r"\n{3,}")


def confine() -> None:
    """Give up the right to open files, sockets and processes; bound time and memory."""
    os.nice(10)  # whoever waits for the server comes first
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (limit, limit))


def read(text: str, url: str) -> tuple[str, str]:
    """Return a page's title and its content as Markdown, with absolute links.

    The content is that of the page's one ``main`` element, if it has one.
    """
    page = JustHTML(text[:MAX_CHARS], sanitize=False, transforms=[Drop(_UNSEEN)])
    for hidden in page.query("[hidden]"):
        if hidden.parent is not None:
            hidden.parent.remove_child(hidden)
    heading = page.query_one("title")
    title = " ".join(heading.to_text().split()) if heading is not None else ""
    base = page.query_one("base[href]")
    url = _absolute(url, base.attrs.get("href")) or url if isinstance(base, Element) else url
    for link in page.query("a"):
        if not isinstance(link, Element):
            continue
        target = _absolute(url, link.attrs.pop("href", None))
        if target is not None:
            link.attrs["href"] = target
    mains = page.query("main")
    content = mains[0] if len(mains) == 1 else page
    return title[:MAX_TITLE_CHARS], _plain(content.to_markdown())


def _absolute(url: str, href: str | None) -> str | None:
    """Return a link's page, or None if it leads to none."""
    try:
        target = urljoin(url, (href or "").strip()).partition("#")[0]
    except ValueError:
        return None
    return target if target.startswith(("http://", "https://")) else None


def _plain(markdown: str) -> str:
    """Return Markdown without the escapes that only a renderer needs."""
    parts = _CODE.split(markdown)
    parts[::2] = [_ESCAPED.sub(r"\1", html.unescape(part)) for part in parts[::2]]
    return _BLANKS.sub("\n\n", "".join(parts)).strip()


def main() -> None:
    """Read one page from standard input."""
    asked = json.loads(sys.stdin.buffer.readline())
    # Codecs, and parts of the parser, are loaded on their first use, which needs files.
    text = sys.stdin.buffer.read().decode(asked["encoding"], "replace")
    for module in pkgutil.walk_packages(justhtml.__path__, "justhtml."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    read(_REHEARSAL, asked["url"])
    confine()
    title, content = read(text, asked["url"])
    answer = {"title": title, "text": content[: asked["max_chars"]], "chars": len(content)}
    sys.stdout.buffer.write(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
