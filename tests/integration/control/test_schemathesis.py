"""Schemathesis on the API's own document: requests as it describes them, to every endpoint.

What it does not describe, ``test_api_fuzz`` sends.
"""

from collections.abc import Iterator

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error

from tests.wire.host import Server, running
from tests.wire.matrix import BETAS

# What waits by design.
_LEFT_OUT = ("/stream", "/poll")
EXAMPLES = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("schemathesis")
    with running(home / "data", log_level="error") as started:
        yield started


@pytest.mark.timeout(240)
def test_no_request_that_the_document_leads_to_breaks_the_server(server: Server) -> None:
    document = httpx2.get(f"{server.base_url}/x/openapi.json").json()
    headers = {"x-api-key": server.api_key, "anthropic-beta": BETAS}
    asked: set[str] = set()
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        if operation.path.endswith(_LEFT_OUT):
            continue

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            asked.add(case.operation.label)
            answer = case.call(base_url=server.base_url, headers=headers, timeout=60)
            case.validate_response(answer, checks=[not_a_server_error])
            if answer.status_code >= 400:
                error = answer.json()
                assert error["type"] == "error", answer.text
                assert error["request_id"] == answer.headers["request-id"][0]

        ask()
    assert len(asked) > 200
    assert "Traceback" not in server.log
