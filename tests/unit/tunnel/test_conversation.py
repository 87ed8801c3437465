from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

import anyio
import mcp_types
import pytest
from mcp.shared.message import ServerMessageMetadata, SessionMessage

from intramuros.tunnel import conversation as module
from intramuros.tunnel.conversation import TAIL_BYTES, Conversation

if TYPE_CHECKING:
    from intramuros.kernel.programs import Pipes

pytestmark = pytest.mark.anyio


class Program:
    """A program's ends, as a test says."""

    def __init__(self, *writes: bytes, complains: bytes = b"") -> None:
        self.writes = list(writes)
        self.complains = [complains[at : at + 700] for at in range(0, len(complains), 700)]
        self.heard: list[bytes] = []
        self.complained = anyio.Event()

    async def send(self, data: bytes) -> None:
        self.heard.append(data)

    async def receive(self) -> bytes | None:
        await self.complained.wait()
        return self.writes.pop(0) if self.writes else None

    async def complaints(self) -> bytes | None:
        if self.complains:
            return self.complains.pop(0)
        self.complained.set()
        return None


class Caller:
    """A caller's ends: what it says, and what it heard."""

    def __init__(self, *said: dict[str, Any]) -> None:
        self.said = [SessionMessage(message(**each)) for each in said]
        self.heard: list[SessionMessage] = []
        self.gone = False
        self.line = self.speak()

    def __aiter__(self) -> AsyncIterator[SessionMessage | Exception]:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return await anext(self.line)

    async def speak(self) -> AsyncIterator[SessionMessage | Exception]:
        yield ValueError("no message")
        for each in self.said:
            yield each
        await anyio.sleep_forever()

    async def send(self, item: SessionMessage, /) -> None:
        if self.gone:
            raise anyio.ClosedResourceError
        self.heard.append(item)


def message(**fields: Any) -> mcp_types.JSONRPCMessage:
    return mcp_types.jsonrpc_message_adapter.validate_python({"jsonrpc": "2.0", **fields})


def asked(id: int, token: object = None) -> dict[str, Any]:
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    return {"id": id, "method": "tools/call", "params": meta}


async def held(program: Program, *said: dict[str, Any]) -> tuple[Conversation, Caller]:
    caller = Caller(*said)
    conversation = Conversation(caller, caller)
    with anyio.fail_after(30):
        assert await conversation.begin()
        await conversation.hold(cast("Pipes", program))
    return conversation, caller


async def test_what_is_said_passes_as_it_is() -> None:
    answer = b'{"jsonrpc":"2.0","id":1,"result":{"new":[1,null]}}\n'
    program = Program(answer[:10], answer[10:])
    conversation, caller = await held(program, {**asked(1), "params": {"odd": {"x": None}}})
    assert program.heard == [
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"odd":{"x":null}}}\n'
    ]
    (heard,) = caller.heard
    assert heard.message.model_dump(by_alias=True, exclude_unset=True)["result"] == {
        "new": [1, None]
    }
    assert conversation.answered


async def test_progress_belongs_to_its_call_and_other_words_to_the_last() -> None:
    conversation, _ = await held(Program(), asked(1, "a"), asked(2, 7), asked(3))
    for id, token in ((1, "a"), (2, 7)):
        note = message(method="notifications/progress", params={"progressToken": token})
        assert conversation.about(note) == ServerMessageMetadata(related_request_id=id)
    assert conversation.about(message(id=9, method="sampling/createMessage")) == (
        ServerMessageMetadata(related_request_id=3)
    )
    assert not conversation.answered
    for id in (1, 2, 3):
        assert conversation.about(message(id=id, result={})) is None
    assert conversation.about(message(method="notifications/message")) is None


async def test_every_open_call_is_answered_once() -> None:
    conversation, caller = await held(
        Program(b'{"jsonrpc":"2.0","id":2,"result":{}}\n'), asked(1), asked(2), asked(3)
    )
    caller.heard.clear()
    await conversation.settle("it ended")
    await conversation.settle("it ended")
    found = [each.message for each in caller.heard]
    assert sorted(each.id for each in found) == [1, 3]  # type: ignore[type-var,union-attr]
    assert {each.error.message for each in found} == {"it ended"}  # type: ignore[union-attr]
    caller.gone = True
    conversation.asked(message(**asked(4)))
    await conversation.settle("nobody hears it")


async def test_a_message_without_end_ends_the_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGE_BYTES", 100)
    conversation, caller = await held(Program(b"x" * 60, b"x" * 60, b"never read"), asked(1))
    assert "too long" in conversation.fault
    assert caller.heard == []


@pytest.mark.parametrize("before", [0, TAIL_BYTES])
async def test_last_words_are_kept_short_and_tell_no_secret(before: int) -> None:
    said = b"k3y-secret" * (before // 5) + b"\nno database for k3y-secret\n"
    conversation, _ = await held(Program(complains=said), asked(1))
    assert conversation.last_words(["k3y-secret", ""]).strip() == "no database for [masked secret]"


async def test_a_caller_that_never_speaks_is_no_conversation() -> None:
    class Silent(Caller):
        async def speak(self) -> AsyncIterator[SessionMessage | Exception]:
            yield ValueError("no message")

    caller = Silent()
    assert not await Conversation(caller, caller).begin()
