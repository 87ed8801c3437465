"""Open a session with a program to learn who answers: before anyone depends on it."""

import anyio
import mcp_types
from mcp.shared.message import SessionMessage
from mcp_types.version import LATEST_HANDSHAKE_VERSION

from intramuros.tunnel.confine import Launch, started
from intramuros.tunnel.conversation import Conversation


async def introduced(launch: Launch, within_s: float) -> tuple[str | None, str]:
    """Start a program, ask it who it is, and end it.

    Returns:
        Its name and version, or None if it does not say; and the end of its error output.

    Raises:
        OSError: it cannot be started.
    """
    ask, coming = anyio.create_memory_object_stream[SessionMessage | Exception](1)
    going, answers = anyio.create_memory_object_stream[SessionMessage](1)
    conversation = Conversation(coming, going)
    name: str | None = None
    async with (
        ask,
        answers,
        started(launch) as pipes,
        anyio.create_task_group() as group,
    ):

        async def hold() -> None:
            async with coming, going:
                await conversation.hold(pipes)

        group.start_soon(hold)
        await ask.send(SessionMessage(_HELLO))
        with anyio.move_on_after(within_s):
            async for item in answers:
                if isinstance(item.message, mcp_types.JSONRPCResponse):
                    name = _name(item.message.result)
                    break
        group.cancel_scope.cancel()
    return name, " ".join(conversation.last_words(launch.secrets).split())[-300:]


def _name(result: object) -> str | None:
    try:
        server = mcp_types.InitializeResult.model_validate(result).server_info
    except ValueError:
        return None
    return f"{server.name} {server.version}"[:200]


_HELLO = mcp_types.JSONRPCRequest(
    jsonrpc="2.0",
    id=1,
    method="initialize",
    params={
        "protocolVersion": LATEST_HANDSHAKE_VERSION,
        "capabilities": {},
        "clientInfo": {"name": "intramuros-doctor", "version": "1"},
    },
)
