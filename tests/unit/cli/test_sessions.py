import io
import json

from anthropic import Anthropic
from rich.console import Console

from intramuros.cli.sessions import print_trace
from intramuros.cli.trace import Line
from tests.unit.cli.conftest import Run, Served


def new_session(served: Served) -> str:
    key = (served.data_dir / "api-key").read_text().strip()
    with Anthropic(base_url=served.url, api_key=key) as client:
        environment = client.beta.environments.create(name="e", config={"type": "self_hosted"})
        agent = client.beta.agents.create(name="a", model="scripted/none")
        made = client.beta.sessions.create(
            agent=agent.id, environment_id=environment.id, title="A title"
        )
        client.beta.sessions.events.send(
            made.id,
            events=[{"type": "user.message", "content": [{"type": "text", "text": "hello"}]}],
        )
        return made.id


def test_list_show_and_trace(run: Run, served: Served) -> None:
    session_id = new_session(served)
    assert f"{session_id}\t" in run("session", "list", *served.options).out
    shown = json.loads(run("session", "show", session_id, *served.options).out)
    assert (shown["id"], shown["title"]) == (session_id, "A title")
    events = run("session", "trace", session_id, "--json", *served.options).out.splitlines()
    assert any(json.loads(event)["type"] == "user.message" for event in events)
    traced = run("session", "trace", session_id, *served.options)
    assert traced.status == 0


def test_an_unknown_session(run: Run, served: Served) -> None:
    ran = run("session", "trace", "sesn_x", *served.options)
    assert ran.status == 1
    assert "sesn_x" in ran.err


def test_a_trace_is_readable_without_colours() -> None:
    screen = io.StringIO()
    lines = [Line(0, "client", "task", "do it"), Line(1500, "hands", "sandbox", "bash [ls]", 20)]
    print_trace(Console(file=screen, width=40), lines)
    first, second = screen.getvalue().splitlines()
    assert first.split() == ["0.000", "s", "client", "task", "do", "it"]
    assert second.split() == ["1.500", "s", "hands", "sandbox", "20", "ms", "bash", "[ls]"]
