"""A dream whose server is killed again and again is dreamed to its end, and once."""

import threading
from pathlib import Path

import pytest
from anthropic import Anthropic

from tests.wire.host import Server, running
from tests.wire.memory import paths, write
from tests.wire.site import MESSAGE, Site
from tests.wire.test_dreams import FINAL, begin, content

SCRIPT = """\
pace_s: 0.15
steps:
  - text: I begin to think about what I was given here.
    tools:
      - name: write_memory
        input:
          path: /first.md
          statements: [{text: "One.", sources: ["${event}"]}]
    values: &values
      event: {step: task, pattern: '"event":"(sevt_[^"]+)"'}
  - text: Then I go on and think about the rest of it too.
    tools:
      - name: write_memory
        input:
          path: /second.md
          statements: [{text: "Two.", sources: ["${event}", /notes.md]}]
      - name: delete_memory
        input: {path: /notes.md, reason: "It is in the second one now."}
    values: *values
  - text: That was all there was to do.
"""
# From the first look at the inputs to the last word.
KILLS_S = (0.15, 0.6, 1.1, 1.6, 0.3, 2.0)


def client_of(server: Server) -> Anthropic:
    return Anthropic(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=60)


@pytest.mark.timeout(600)
def test_R243_a_dream_outlives_its_servers(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "slow.yaml").write_text(SCRIPT)
    (scripts / "answer.yaml").write_text("steps: [{text: Yes.}]")
    data_dir = tmp_path / "data"
    with running(data_dir, model_scripts=str(scripts)) as server, client_of(server) as client:
        store = client.beta.memory_stores.create(name="s").id
        write(client, store, "/notes.md", "Two.")
        write(client, store, "/same.md", "Three.")
        with Site(server, client) as site:
            talk = site.session().id
            client.beta.sessions.events.send(talk, events=[MESSAGE])
            site.wait(talk, "session.status_idle")
        dream = begin(client, store, talk, script="slow")
        threading.Event().wait(KILLS_S[0])
        server.process.kill()
    for wait_s in KILLS_S[1:]:
        with running(data_dir, model_scripts=str(scripts)) as server:
            threading.Event().wait(wait_s)
            server.process.kill()
    with running(data_dir, model_scripts=str(scripts)) as server, client_of(server) as client:
        for _ in range(1200):
            found = client.beta.dreams.retrieve(dream.id)
            if found.status in FINAL:
                break
            threading.Event().wait(0.1)
        assert (found.status, found.error) == ("completed", None)
        output = found.outputs[0].memory_store_id
        assert paths(client, output) == ["/first.md", "/same.md", "/second.md"]
        assert paths(client, store) == ["/notes.md", "/same.md"]
        versions = client.beta.memory_stores.memory_versions.list(output)
        assert sorted(f"{v.operation} {v.path}" for v in versions) == [
            "created /first.md",
            "created /notes.md",
            "created /same.md",
            "created /second.md",
            "deleted /notes.md",
        ]
        assert talk in content(client, output, "/second.md")
        assert len(list(client.beta.files.list(scope_id=found.session_id))) == 1
        assert len(list(client.beta.memory_stores.list())) == 2
        session = client.beta.sessions.retrieve(str(found.session_id))
        assert session.archived_at is not None
