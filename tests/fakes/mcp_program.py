"""An MCP server that speaks over its pipes and does what its tools are told, good or bad.

The standard library alone, so that it starts at once in any sandbox.
"""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tool = Callable[[dict[str, Any], dict[str, Any]], str]


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def progress(arguments: dict[str, Any], meta: dict[str, Any]) -> str:
    for step in range(arguments["steps"]):
        params = {"progressToken": meta["progressToken"], "progress": step + 1}
        say({"method": "notifications/progress", "params": params})
        time.sleep(arguments.get("pause", 0))
    return "done"


def connect(arguments: dict[str, Any], _: dict[str, Any]) -> str:
    try:
        socket.create_connection(("127.0.0.1", arguments["port"]), 2).close()
    except OSError as error:
        return f"refused: {error.strerror}"
    return "connected"


def written(arguments: dict[str, Any], _: dict[str, Any]) -> str:
    try:
        Path(arguments["path"]).write_text(arguments["text"])
    except OSError as error:
        return f"refused: {error.strerror}"
    return "written"


def read(arguments: dict[str, Any], _: dict[str, Any]) -> str:
    try:
        return Path(arguments["path"]).read_text()
    except OSError as error:
        return f"refused: {error.strerror}"


def die(arguments: dict[str, Any], _: dict[str, Any]) -> str:
    sys.stderr.write("I die\n")
    os._exit(arguments.get("status", 3))


def noise(arguments: dict[str, Any], _: dict[str, Any]) -> str:
    sys.stdout.write(arguments["before"] + "\n")
    return "heard"


def attempt(arguments: dict[str, Any], _: dict[str, Any]) -> str:
    """Make system calls, each a number and what it is given; say what became of each."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    found = {}
    for name, numbers in arguments["calls"].items():
        ctypes.set_errno(0)
        done = libc.syscall(*map(ctypes.c_long, numbers))
        found[name] = "ok" if done >= 0 else errno.errorcode[ctypes.get_errno()]
    return json.dumps(found)


def effect(arguments: dict[str, Any], meta: dict[str, Any]) -> str:
    """Do something once, and say so when a file appears."""
    with Path(arguments["done"]).open("a") as done:
        done.write("x")
    if "progressToken" in meta:
        params = {"progressToken": meta["progressToken"], "progress": 1}
        say({"method": "notifications/progress", "params": params})
    while not Path(arguments["until"]).exists():
        time.sleep(0.02)
    return f"done {arguments.get('what', '')}"


TOOLS: dict[str, Tool] = {
    "pid": lambda _, __: str(os.getpid()),
    "echo": lambda arguments, _: str(arguments["text"]),
    "environ": lambda _, __: json.dumps(dict(os.environ)),
    "sleep": lambda arguments, _: str(time.sleep(arguments["seconds"])),
    "flood": lambda arguments, _: "x" * int(arguments["size"]),
    "progress": progress,
    "connect": connect,
    "write": written,
    "read": read,
    "attempt": attempt,
    "die": die,
    "effect": effect,
    "noise": noise,
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    params = request.get("params", {})
    if request["method"] == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "program", "version": "1"},
        }
    if request["method"] == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
    if request["method"] == "tools/call":
        tool = TOOLS[params["name"]]
        text = tool(params.get("arguments") or {}, params.get("_meta") or {})
        return {"content": [{"type": "text", "text": text}]}
    return {}


def main() -> None:
    sys.stderr.write("the server says hello\n")
    for line in sys.stdin:
        request = json.loads(line)
        if "id" in request and "method" in request:
            say({"id": request["id"], "result": answer(request)})


if __name__ == "__main__":
    main()
