"""What clients ask for, and how the model goes about it. Pure.

A message says ``do TOKEN STEP STEP …``. For each step the model calls a tool with a nonce of its
own, which the tool leaves where it can be found; when no step is left it says ``done TOKEN``. The
model knows nothing but the conversation, so whoever asks again gets as good an answer.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BASH, CUSTOM, MCP, PAIR, PRY = "bash", "custom", "mcp", "pair", "pry"
STEPS = (BASH, CUSTOM, MCP, PAIR, PRY)
EFFECTS = "/effects"
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the model says: blocks, and the nonces of its calls by tool."""

    content: list[Json]
    nonces: dict[str, str]


def ask(token: str, steps: Sequence[str]) -> str:
    """Return the text of a message."""
    return " ".join(["do", token, *steps])


def answer(body: Mapping[str, Any], nonce: Callable[[], str], forbidden_port: int) -> Answer:
    """Return the model's answer to a request.

    Args:
        nonce: makes a text that was never used before.
        forbidden_port: a port on this machine that no sandbox may reach.
    """
    tokens, steps = _open(body["messages"])
    if not steps:
        return Answer([{"type": "text", "text": f"done {' '.join(tokens) or 'nothing'}"}], {})
    names = [tool["name"] for tool in body.get("tools", ())]
    docs = next((name for name in names if name.endswith("touch")), None)
    step = steps[0]
    wanted = [BASH, CUSTOM] if step == PAIR else [step]
    content, nonces = [], {}
    for kind in wanted:
        mark = nonce()
        name, given = _call(kind, mark, docs, forbidden_port)
        content.append({"type": "tool_use", "id": f"toolu_{mark}", "name": name, "input": given})
        nonces[mark] = kind
    return Answer(content, nonces)


def _call(kind: str, mark: str, docs: str | None, forbidden_port: int) -> tuple[str, Json]:
    if kind == MCP and docs:
        return docs, {"nonce": mark}
    if kind == CUSTOM:
        return "probe", {"nonce": mark}
    stamp = f": {mark} ; echo {mark} $(date +%s%N) >> {EFFECTS}/log"
    if kind == PRY:
        # Nothing of this may work: the network, and whatever lies about in the sandbox.
        dial = f"(exec 3<>/dev/tcp/127.0.0.1/{forbidden_port}) 2>/dev/null"
        pry = f"{dial} && echo REACHED {mark} >> {EFFECTS}/log"
        look = f"cat /proc/[0-9]*/environ > {EFFECTS}/environ-{mark} 2>/dev/null"
        return "bash", {"command": f"{stamp}; {pry}; {look}; echo {mark}"}
    nap = int(mark[-2:], 16) / 256 * 0.6
    return "bash", {"command": f"{stamp}; sleep {nap:.2f}; echo {mark}"}


def _open(messages: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return the tokens that nobody said ``done`` to, and the steps that are left of them."""
    tokens: list[str] = []
    steps: list[str] = []
    for message in messages:
        for block in _blocks(message):
            text = str(block.get("text", ""))
            if message["role"] == "user" and text.startswith("do "):
                _, token, *wanted = text.split()
                if token not in tokens:
                    tokens.append(token)
                    steps.extend(wanted)
            elif message["role"] == "assistant" and text.startswith("done "):
                tokens, steps = [], []
        if message["role"] == "assistant" and steps:
            used = any(block.get("type") == "tool_use" for block in _blocks(message))
            steps = steps[1:] if used else steps
    return tokens, steps


def _blocks(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def said_done(text: str) -> list[str]:
    """Return the tokens that a message of the agent says to be done."""
    return text.split()[1:] if text.startswith("done ") else []


def nonce_of(given: Mapping[str, Any]) -> str | None:
    """Return the nonce in a call's input; None if the call is not one of ours."""
    if "nonce" in given:
        return str(given["nonce"])
    words = str(given.get("command", "")).split()
    return words[1] if words[:1] == [":"] and len(words) > 1 else None


def dumped(value: object) -> str:
    """Return a value as one text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
