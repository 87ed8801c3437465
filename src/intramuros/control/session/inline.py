"""Puts the content of uploaded files into model requests, in place of references to them.

Providers have not our files, so an image or PDF goes as base64 and a text as text. The log keeps
the reference; a file that is gone by now leaves a note in its place, so that old sessions go on.
"""

import base64
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from intramuros.control.catalog import files
from intramuros.control.catalog.service import Resource
from intramuros.control.model.base import Block, ModelRequest
from intramuros.control.session.conversation import file_of, files_of
from intramuros.control.session.file_sources import MAX_BYTES, is_text
from intramuros.control.store.blobs import Blob, Blobs
from intramuros.control.store.db import Database, Tx
from intramuros.kernel.errors import NotFound
from intramuros.kernel.telemetry import logger
from intramuros.kernel.timing import Clock, to_micros

log = logger("files")

# Of content kept for the next request of the same session, in characters of base64 or text.
CACHE_CHARS: Final = 64 * 1024 * 1024


class Inliner:
    """Fills in the files of requests; remembers the ones used last."""

    def __init__(self, db: Database, blobs: Blobs, clock: Clock) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self._kept: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        self._chars = 0

    async def fill(self, workspace_id: str, request: ModelRequest) -> ModelRequest:
        """Return the request with the content of every file that it names.

        Raises:
            Unavailable: the blob store does not give one now.
        """
        # Looking for them takes longer than all else when much was said.
        wanted = set(files_of(request.messages) if request.files is None else request.files)
        if not wanted:
            return request
        sources = {file_id: await self._source(workspace_id, file_id) for file_id in wanted}
        return replace(request, messages=[_filled(block, sources) for block in request.messages])

    async def _source(self, workspace_id: str, file_id: str) -> Mapping[str, str] | None:
        now_us = to_micros(self._clock.now())

        def read(tx: Tx) -> tuple[Resource, Blob] | None:
            try:
                return files.of_workspace(tx, workspace_id, file_id, now_us)
            except NotFound:
                return None

        # Looked up each time, kept or not: a file that was deleted must not be sent any more.
        found = await self._db.read(read)
        if found is None or found[1].size_bytes > MAX_BYTES:
            self._forget(file_id)
            return None
        if file_id in self._kept:
            self._kept.move_to_end(file_id)
            return self._kept[file_id]
        file, blob = found
        content = b"".join([chunk async for chunk in await self._blobs.read(blob)])
        source = _source_of(file.body["mime_type"], content)
        self._keep(file_id, source)
        return source

    def _keep(self, file_id: str, source: Mapping[str, str]) -> None:
        self._kept[file_id] = source
        self._chars += len(source["data"])
        while self._chars > CACHE_CHARS:
            self._forget(next(iter(self._kept)))

    def _forget(self, file_id: str) -> None:
        source = self._kept.pop(file_id, None)
        if source is not None:
            self._chars -= len(source["data"])


def _source_of(mime_type: str, content: bytes) -> Mapping[str, str]:
    if is_text(mime_type):
        text = content.decode("utf-8", "replace")
        return {"type": "text", "media_type": "text/plain", "data": text}
    data = base64.b64encode(content).decode()
    return {"type": "base64", "media_type": mime_type, "data": data}


def _filled(block: Block, sources: Mapping[str, Mapping[str, str] | None]) -> Block:
    file_id = file_of(block)
    if file_id is not None:
        source = sources[file_id]
        if source is None:
            return {"type": "text", "text": f"[The file {file_id} is no longer there.]"}
        return {**block, "source": source}
    inner: Any = block.get("content")
    if isinstance(inner, Sequence) and not isinstance(inner, str):
        return {**block, "content": [_filled(part, sources) for part in inner]}
    return block
