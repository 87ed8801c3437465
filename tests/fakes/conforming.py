"""An MCP server with everything that the official conformance suite asks of servers."""

import base64
import json
from typing import Any, Final, Literal

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.server.streamable_http import EventCallback, EventId, EventMessage, EventStore, StreamId
from mcp.types import (
    AudioContent,
    Completion,
    ContentBlock,
    EmbeddedResource,
    EmptyResult,
    ImageContent,
    JSONRPCMessage,
    SamplingMessage,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel, Field
from starlette.applications import Starlette

PNG: Final = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(64)).decode()
WAV: Final = base64.b64encode(b"RIFF" + bytes(40)).decode()
IMAGE: Final = ImageContent(type="image", data=PNG, mime_type="image/png")


class Memory(EventStore):
    """Keeps what streams said, so that clients can come back for the rest."""

    def __init__(self) -> None:
        self._said: list[tuple[StreamId, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: StreamId, message: JSONRPCMessage | None) -> EventId:
        """Keep one event and return its id."""
        self._said.append((stream_id, message))
        return str(len(self._said))

    async def replay_events_after(
        self, last_event_id: EventId, send_callback: EventCallback
    ) -> StreamId | None:
        """Send again what the stream of an event said after it."""
        position = int(last_event_id)
        stream = self._said[position - 1][0]
        for number, (of, message) in enumerate(self._said[position:], position + 1):
            if of == stream and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream


class User(BaseModel):
    """What a form asks for."""

    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    """A form whose members have defaults."""

    name: str = Field(default="John Doe")
    age: int = Field(default=30)
    score: float = Field(default=95.5)
    status: Literal["active", "inactive", "pending"] = Field(default="active")
    verified: bool = Field(default=True)


def make() -> Starlette:
    """Return the server as an application whose endpoint is ``/mcp``."""
    server = MCPServer("conforming", log_level="ERROR")
    for add in (_contents, _talk, _questions, _resources, _prompts, _levels):
        add(server)
    return server.streamable_http_app(event_store=Memory(), retry_interval=100)


def _contents(server: MCPServer) -> None:
    @server.tool()
    def test_simple_text() -> list[ContentBlock]:
        """Return text."""
        return [TextContent(type="text", text="This is a simple text response for testing.")]

    @server.tool()
    def test_image_content() -> list[ContentBlock]:
        """Return an image."""
        return [IMAGE]

    @server.tool()
    def test_audio_content() -> list[ContentBlock]:
        """Return a sound."""
        return [AudioContent(type="audio", data=WAV, mime_type="audio/wav")]

    @server.tool()
    def test_embedded_resource() -> list[ContentBlock]:
        """Return a resource."""
        return [_embedded("test://embedded-resource", "text/plain", "This is embedded.")]

    @server.tool()
    def test_multiple_content_types() -> list[ContentBlock]:
        """Return several kinds of content."""
        inner = _embedded("test://mixed-content-resource", "application/json", '{"test":"data"}')
        return [TextContent(type="text", text="Multiple content types test:"), IMAGE, inner]

    @server.tool()
    def test_error_handling() -> str:
        """Fail."""
        raise ValueError("This tool intentionally returns an error for testing")


def _talk(server: MCPServer) -> None:
    @server.tool()
    async def test_tool_with_logging(ctx: Context) -> str:
        """Log while it runs."""
        for said in ("Tool execution started", "Tool processing data", "Tool execution completed"):
            await ctx.info(said)
            await anyio.sleep(0.05)
        return "Tool with logging executed successfully"

    @server.tool()
    async def test_tool_with_progress(ctx: Context) -> str:
        """Report progress while it runs."""
        for done in (0, 50, 100):
            await ctx.report_progress(done, 100, f"Completed step {done} of 100")
            await anyio.sleep(0.05)
        return "Tool with progress executed successfully"

    @server.tool()
    async def test_reconnection(ctx: Context) -> str:
        """Close the stream before the answer, which is fetched by a client that comes back."""
        await anyio.sleep(0.1)
        await ctx.close_sse_stream()
        await anyio.sleep(0.1)
        return "Reconnection test completed successfully"


def _questions(server: MCPServer) -> None:
    @server.tool()
    async def test_sampling(prompt: str, ctx: Context) -> str:
        """Ask the client's model."""
        said = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
        answer = await ctx.session.create_message([said], max_tokens=100)
        return f"LLM response: {answer.content}"

    @server.tool()
    async def test_elicitation(message: str, ctx: Context) -> str:
        """Ask the client's user."""
        answer = await ctx.elicit(message, User)
        return f"User response: {answer.action}"

    @server.tool()
    async def test_elicitation_sep1034_defaults(ctx: Context) -> str:
        """Ask with defaults."""
        answer = await ctx.elicit("Please review and update the form", Defaults)
        return f"Elicitation completed: {answer.action}"

    @server.tool()
    async def test_elicitation_sep1330_enums(ctx: Context) -> str:
        """Ask to choose."""
        answer = await ctx.session.elicit_form("Please select options", _choices())
        return f"Elicitation completed: {answer.action}"


def _choices() -> dict[str, Any]:
    plain = ["option1", "option2", "option3"]
    titled = [
        {"const": f"value{n}", "title": f"{name} Option"}
        for n, name in enumerate(("First", "Second", "Third"), 1)
    ]
    named = ["opt1", "opt2", "opt3"]
    return {
        "type": "object",
        "properties": {
            "untitledSingle": {"type": "string", "enum": plain},
            "titledSingle": {"type": "string", "oneOf": titled},
            "legacyEnum": {"type": "string", "enum": named, "enumNames": ["One", "Two", "Three"]},
            "untitledMulti": {"type": "array", "items": {"type": "string", "enum": plain}},
            "titledMulti": {"type": "array", "items": {"anyOf": titled}},
        },
        "required": [],
    }


def _resources(server: MCPServer) -> None:
    @server.resource("test://static-text", mime_type="text/plain")
    def static_text() -> str:
        """Return text."""
        return "This is the content of the static text resource."

    @server.resource("test://static-binary", mime_type="image/png")
    def static_binary() -> bytes:
        """Return bytes."""
        return base64.b64decode(PNG)

    @server.resource("test://template/{id}/data", mime_type="application/json")
    def template(id: str) -> str:
        """Return what a template names."""
        return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})

    @server.resource("test://watched-resource", mime_type="text/plain")
    def watched() -> str:
        """Return what may change."""
        return "Watched resource content"


def _prompts(server: MCPServer) -> None:
    @server.prompt()
    def test_simple_prompt() -> str:
        """Say something simple."""
        return "This is a simple prompt for testing."

    @server.prompt()
    def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
        """Say what was given."""
        return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"

    @server.prompt()
    def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
        """Say something with a resource."""
        inner = _embedded(resourceUri, "text/plain", "Embedded resource content for testing.")
        return [UserMessage(inner), UserMessage("Please process the embedded resource above.")]

    @server.prompt()
    def test_prompt_with_image() -> list[UserMessage]:
        """Say something with an image."""
        return [UserMessage(IMAGE), UserMessage("Please analyze the image above.")]

    @server.completion()
    async def complete(_ref: object, argument: Any, _context: object) -> Completion:
        return Completion(values=[f"{argument.value}-1"], total=1, has_more=False)


def _levels(server: MCPServer) -> None:
    """Add what the high-level server leaves out."""

    async def nothing(_context: object, _params: object) -> EmptyResult:
        return EmptyResult()

    inner = server._lowlevel_server
    inner.add_request_handler("logging/setLevel", SetLevelRequestParams, nothing)
    inner.add_request_handler("resources/subscribe", SubscribeRequestParams, nothing)
    inner.add_request_handler("resources/unsubscribe", UnsubscribeRequestParams, nothing)


def _embedded(uri: str, kind: str, text: str) -> EmbeddedResource:
    inner = TextResourceContents(uri=uri, mime_type=kind, text=text)
    return EmbeddedResource(type="resource", resource=inner)
