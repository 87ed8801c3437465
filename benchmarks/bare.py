"""What others are compared with: an empty FastAPI route that does one indexed read or write.

A list is compared with one indexed read of as many rows; by its side the ratio to one row is kept.
Rows are as long as what they are compared with.

``python -m benchmarks.bare DATABASE``: serves on a free port and prints it. It works on the
server's own database, with the same durability, the same HTTP server and the same event loop.
"""

import socket
import sqlite3
import sys
import threading
from typing import Any

import anyio
import anyio.to_thread
import uvicorn
from fastapi import FastAPI, Request

_local = threading.local()


def connection(path: str) -> sqlite3.Connection:
    """Return this thread's connection."""
    if not hasattr(_local, "connection"):
        made = sqlite3.connect(path, isolation_level=None, timeout=10)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            made.execute(f"PRAGMA {pragma}")
        _local.connection = made
    found: sqlite3.Connection = _local.connection
    return found


def create_app(path: str) -> FastAPI:
    """Return the three routes."""
    app = FastAPI(openapi_url=None)

    def read(key: str) -> dict[str, Any]:
        row = connection(path).execute("SELECT id, body FROM bare WHERE id = ?", (key,)).fetchone()
        return {"id": row[0], "body": row[1]}

    def page(after: str, limit: int) -> dict[str, Any]:
        rows = connection(path).execute(
            "SELECT id, body FROM bare WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return {"data": [{"id": row[0], "body": row[1]} for row in rows]}

    def write(key: str, body: str) -> dict[str, Any]:
        db = connection(path)
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO bare (id, body) VALUES (?, ?)", (key, body))
        db.execute("COMMIT")
        return {"id": key}

    @app.get("/read/{key}")
    async def one(key: str) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(read, key)

    @app.get("/page/{after}")
    async def several(after: str, limit: int) -> dict[str, Any]:
        return await anyio.to_thread.run_sync(page, after, limit)

    @app.post("/write/{key}")
    async def put(key: str, request: Request) -> dict[str, Any]:
        body = (await request.body()).decode()
        return await anyio.to_thread.run_sync(write, key, body)

    return app


def main() -> None:
    """Serve."""
    path = sys.argv[1]
    connection(path).execute("CREATE TABLE IF NOT EXISTS bare (id TEXT PRIMARY KEY, body TEXT)")
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(path), log_level="error", access_log=False, lifespan="off")
    print(listener.getsockname()[1], flush=True)
    server = uvicorn.Server(config)
    anyio.run(server.serve, [listener], backend_options={"use_uvloop": True})


if __name__ == "__main__":
    main()
