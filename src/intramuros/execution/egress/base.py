"""Where the two halves of egress meet: what captures connections, and what judges them.

The capture knows names and ports only; every decision about what may be said to whom is the gate's.
"""

from typing import Protocol

from anyio.abc import SocketStream

from intramuros.execution.egress.names import Names, canonical


class Gate(Protocol):
    """Judges and forwards one sandbox's connections."""

    async def serve(self, stream: SocketStream, name: str, port: int) -> None:
        """Serve one captured TCP connection, and close it; raises nothing but cancellation.

        Args:
            stream: the sandbox's end.
            name: whom the sandbox looked up; admitted at that time.
            port: that it connected to.
        """
        ...


__all__ = ["Gate", "Names", "canonical"]
