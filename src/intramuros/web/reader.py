"""What an answer's body says: a document that a model can read, or nothing.

HTML becomes Markdown in a confined process (``inside.py``), PDF stays as it is, other text is
decoded. Everything else is refused.
"""

import base64
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from intramuros.kernel.errors import IntramurosError
from intramuros.kernel.telemetry import logger
from intramuros.web import inside

log = logger("web")

# Pages read at once by this process; more wait for their turn within their deadline.
READERS: Final = 2
# A process that neither ends nor works; one that works too long ends itself.
READ_S: Final = 20.0
# Text of one page that the model sees, whatever the agent allows (contract 6.25).
MAX_CHARS: Final = 100_000
# The documented rule of thumb: an average page of 10 kB is 2,500 tokens.
BYTES_PER_TOKEN: Final = 4
_HEAD_BYTES: Final = 1024

_HTML: Final = frozenset({"text/html", "application/xhtml+xml"})
_TEXT: Final = frozenset(
    {"application/json", "application/xml", "application/yaml", "application/x-yaml"}
)
_PDF: Final = "application/pdf"
_META: Final = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.I)
_PARAMETER: Final = re.compile(r";\s*charset\s*=\s*\"?([A-Za-z0-9_.:-]{2,40})", re.I)
_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
# Encodings of pages by what they are called there (WHATWG, Encoding Standard): a name that is not
# among them could be any of Python's codecs, and not all of those read text.
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "utf-8": ("utf-8", "utf8", "unicode-1-1-utf-8"),
    "cp1252": ("iso-8859-1", "latin1", "latin-1", "l1", "ascii", "us-ascii", "windows-1252"),
    "iso8859-2": ("iso-8859-2", "latin2", "l2"),
    "iso8859-5": ("iso-8859-5",),
    "iso8859-7": ("iso-8859-7", "greek"),
    "iso8859-15": ("iso-8859-15", "latin-9", "l9"),
    "cp1250": ("windows-1250", "cp1250"),
    "cp1251": ("windows-1251", "cp1251"),
    "cp1253": ("windows-1253",),
    "cp1254": ("iso-8859-9", "windows-1254", "latin5"),
    "cp1255": ("windows-1255",),
    "cp1256": ("windows-1256",),
    "cp1257": ("windows-1257",),
    "koi8-r": ("koi8-r", "koi"),
    "koi8-u": ("koi8-u",),
    "gb18030": ("gb2312", "gbk", "gb18030", "x-gbk"),
    "big5": ("big5", "big5-hkscs"),
    "euc-jp": ("euc-jp",),
    "cp932": ("shift_jis", "shift-jis", "sjis", "windows-31j"),
    "euc-kr": ("euc-kr", "ks_c_5601-1987"),
    "utf-16-le": ("utf-16", "utf-16le"),
    "utf-16-be": ("utf-16be",),
}
_CODECS: Final = {name: codec for codec, names in _NAMES.items() for name in names}


class Unreadable(IntramurosError):
    """A body that is no text, no HTML and no PDF, or that nobody can read."""


@dataclass(frozen=True)
class Body:
    """What a server answered.

    Args:
        url: where it came from, after redirects.
        content_type: as the server says; may be empty.
        whole: False if there was more of it than we read.
    """

    url: str
    content_type: str
    data: bytes
    whole: bool = True

    @property
    def media_type(self) -> str:
        """The type without parameters."""
        return self.content_type.partition(";")[0].strip().lower()


Block = Mapping[str, object]


class Reader:
    """Reads bodies, a few at a time.

    Args:
        read_s: seconds that one HTML page may take.
    """

    def __init__(self, read_s: float = READ_S) -> None:
        self._read_s = read_s
        self._limiter = anyio.CapacityLimiter(READERS)

    async def document(self, body: Body, max_tokens: int | None) -> Block:
        """Return a body as a document block.

        Args:
            max_tokens: of text; does not hold for PDF (contract 6.22).

        Raises:
            Unreadable: it is nothing that a model could read.
        """
        if body.media_type == _PDF:
            return _pdf(body)
        if not _is_text(body):
            raise Unreadable(f"the page is {body.media_type[:80] or 'of no known type'}")
        chars = MAX_CHARS
        if max_tokens is not None:
            chars = min(chars, max_tokens * BYTES_PER_TOKEN)
        codec = encoding(body)
        if body.media_type in _HTML:
            title, text, total = await self._html(body, codec, chars)
        else:
            title, text = "", await anyio.to_thread.run_sync(_decode, body.data, codec)
            total = len(text)
        text = _bounded(text, total, chars, max_tokens)
        if not body.whole:
            text += f"\n[cut: the page is longer than the {len(body.data)} bytes that were read]"
        source = {"type": "text", "media_type": "text/plain", "data": text or "(no text)"}
        return {"type": "document", "source": source, **({"title": title} if title else {})}

    async def _html(self, body: Body, codec: str, chars: int) -> tuple[str, str, int]:
        asked = {"encoding": codec, "url": body.url, "max_chars": chars}
        run = partial(
            anyio.run_process,
            # Isolated: neither the environment nor the working directory adds anything to it.
            [sys.executable, "-I", str(Path(inside.__file__))],
            input=json.dumps(asked).encode() + b"\n" + body.data,
            check=False,
            env={"LC_ALL": "C.UTF-8"},
        )
        page = None
        try:
            with anyio.move_on_after(self._read_s):
                async with self._limiter:
                    done = await run()
                if done.returncode == 0:
                    page = json.loads(done.stdout)
                else:
                    log.info("page_not_read", status=done.returncode)
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError):
            log.info("page_not_read", status=None)  # it died before it had read the page
        if page is None:
            raise Unreadable("the page takes too much to read")
        return str(page["title"]), str(page["text"]), int(page["chars"])


def encoding(body: Body) -> str:
    """Return the codec of a body: what its first bytes say, or its type, or the page itself."""
    for mark, codec in _MARKS:
        if body.data.startswith(mark):
            return codec
    if named := _PARAMETER.search(body.content_type):
        return _CODECS.get(named[1].lower(), "utf-8")
    if body.media_type in _HTML and (said := _META.search(body.data[:_HEAD_BYTES])):
        codec = _CODECS.get(said[1].decode("ascii").lower(), "utf-8")
        # A page whose head can be read byte by byte is not in it.
        return "utf-8" if codec.startswith("utf-16") else codec
    return "utf-8"


def _is_text(body: Body) -> bool:
    media_type = body.media_type
    known = (
        media_type in _HTML
        or media_type in _TEXT
        or media_type.startswith("text/")
        or media_type.endswith(("+json", "+xml"))
        or not media_type
    )
    if not known or encoding(body).startswith("utf-16"):
        return known
    return b"\0" not in body.data[:_HEAD_BYTES]


def _decode(data: bytes, codec: str) -> str:
    return data.decode(codec, "replace").replace("\0", "")


def _bounded(text: str, total: int, chars: int, max_tokens: int | None) -> str:
    room = chars if max_tokens is None else _fits(text, max_tokens * BYTES_PER_TOKEN, chars)
    if total <= room:
        return text
    return f"{text[:room]}\n[cut: {total - room} of {total} characters are not shown]"


def _fits(text: str, max_bytes: int, chars: int) -> int:
    """Return how many characters fit into so many bytes of UTF-8."""
    whole = text[:chars].encode("utf-8", "replace")[:max_bytes]
    return len(whole.decode("utf-8", "ignore"))


def _pdf(body: Body) -> Block:
    if b"%PDF-" not in body.data[:_HEAD_BYTES]:
        raise Unreadable("the page says that it is a PDF and is none")
    if not body.whole:
        raise Unreadable(f"the PDF is larger than {len(body.data)} bytes")
    data = base64.b64encode(body.data).decode("ascii")
    return {"type": "document", "source": {"type": "base64", "media_type": _PDF, "data": data}}
