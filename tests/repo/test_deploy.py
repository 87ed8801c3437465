"""What ``deploy`` ships, as far as it can be tried without a cluster or a container runtime."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from intramuros.cli.main import app
from tests.repo.tree import ROOT

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
UID = 65532
GIVEN: dict[str, Any] = {
    "gateway": {
        "edges": ["edge.example:443", "edge2.example:443"],
        "routes": {"docs": "http://10.0.0.5:8080", "bank": "http://10.0.0.6:8080"},
        "allowedIps": ["10.0.0.0/8"],
        "tunnelId": "tnl_1",
    },
    "api": {
        "url": "https://agents.example",
        "wif": {"ruleId": "fdrl_1", "organizationId": "org", "workspaceId": "default"},
    },
    "edge": {"enabled": True},
}
_TAG = re.compile(r"(\s*)\{\{(-?)\s*(.*?)\s*\}\}")


class Missing(ValueError):
    """A required value is not there."""


def required(message: str, value: Any) -> Any:
    if not value:
        raise Missing(message)
    return value


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "quote": lambda value: json.dumps(text(value)),
    "default": lambda other, value: value or other,
    "printf": lambda form, *values: form % values,
    "not": lambda value: not value,
    "required": required,
    "toJson": lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")),
    "omit": lambda mapping, *keys: {k: v for k, v in mapping.items() if k not in keys},
    "sha256sum": lambda value: hashlib.sha256(value.encode()).hexdigest(),
}


def text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def looked_up(term: str, scope: Mapping[str, Any]) -> Any:
    if term.startswith('"'):
        return json.loads(term)
    if term in scope:
        return scope[term]
    found: Any = scope
    for part in term.removeprefix(".").split("."):
        found = found[part]
    return found


def evaluated(expression: str, scope: Mapping[str, Any]) -> Any:
    """Evaluate a pipeline of the few functions that the chart uses."""
    passed: list[Any] = []
    for segment in re.split(r"\s\|\s", expression):
        head, *rest = re.findall(r'"[^"]*"|\S+', segment)
        values = [looked_up(term, scope) for term in rest]
        if head in FUNCTIONS:
            passed = [FUNCTIONS[head](*values, *passed)]
        else:
            passed = [looked_up(head, scope)]
    return passed[0]


def parts(template: str) -> list[tuple[str, str]]:
    """Split a template into texts and tags."""
    found: list[tuple[str, str]] = []
    at = 0
    for match in _TAG.finditer(template):
        kept = "" if match[2] else match[1]  # a dash takes the white space before it away
        found += [("text", template[at : match.start()] + kept), ("tag", match[3])]
        at = match.end()
    return [*found, ("text", template[at:])]


def filled(stream: Iterator[tuple[str, str]], scope: Mapping[str, Any]) -> str:
    """Fill in a template until its end, or the end of a block."""
    out = ""
    for kind, content in stream:
        if kind == "text":
            out += content
        elif content == "end":
            return out
        elif content.startswith("if "):
            block = list(until_end(stream))
            out += filled(iter(block), scope) if evaluated(content[3:], scope) else ""
        elif content.startswith("range "):
            block = list(until_end(stream))
            for names in items(content[6:], scope):
                out += filled(iter(block), {**scope, **names})
        else:
            out += text(evaluated(content, scope))
    return out


def until_end(stream: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    depth = 1
    for kind, content in stream:
        if kind == "tag":
            depth += content.startswith(("if ", "range ")) - (content == "end")
        if depth == 0:
            return
        yield kind, content


def items(loop: str, scope: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    names, _, source = loop.rpartition(":= ")
    found = evaluated(source or loop, scope)
    if names:
        key, value = (name.strip() for name in names.split(","))
        for one in sorted(found):
            yield {key: one, value: found[one]}
    else:
        for one in found:
            yield {".": one}


def merged(base: Any, over: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return {**base, **{name: merged(base.get(name), value) for name, value in over.items()}}


def rendered(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    whole = merged(yaml.safe_load((CHART / "values.yaml").read_text()), values)
    scope = {"Values": whole, "Release": {"Name": "mcp-tunnel", "Namespace": "agents"}}
    return [
        document
        for template in sorted((CHART / "templates").glob("*.yaml"))
        for document in yaml.safe_load_all(filled(iter(parts(template.read_text())), scope))
        if document
    ]


def named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


def pods(node: Any) -> Iterator[dict[str, Any]]:
    """Find every pod's specification."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for inner in node.values():
            yield from pods(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from pods(inner)


def test_R336_charts_run_as_65532_and_prove_who_they_are_to_the_documented_audience() -> None:
    documents = rendered(GIVEN)
    found = list(pods(documents))
    assert len(found) == 4
    for pod in found:
        security = pod["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (UID,) * 3
        assert security["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            box = container["securityContext"]
            assert box["allowPrivilegeEscalation"] is False
            assert box["readOnlyRootFilesystem"] is True
            assert box["capabilities"] == {"drop": ["ALL"]}
    assert audience(documents) == "api.anthropic.com"
    own = merged(GIVEN, {"api": {"wif": {"audience": "https://agents.example"}}})
    assert audience(rendered(own)) == "https://agents.example"


def audience(documents: list[dict[str, Any]]) -> str:
    (pod,) = pods(named(documents, "Job", "mcp-tunnel-setup"))
    (identity,) = [volume for volume in pod["volumes"] if volume["name"] == "identity"]
    token = identity["projected"]["sources"][0]["serviceAccountToken"]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "identity"]
    env = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert env["INTRAMUROS_IDENTITY_TOKEN_FILE"] == f"{mount['mountPath']}/{token['path']}"
    return str(token["audience"])


def test_R336_images_and_compose_run_as_65532() -> None:
    stages: dict[str, list[str]] = {}
    for line in (DEPLOY / "Containerfile").read_text().splitlines():
        if line.startswith("FROM "):
            _, base, _, name = line.split()
            stages[name] = [*stages.get(base, [])]
        elif line.startswith("USER "):
            stages[name].append(line)
    for program in ("server", "worker", "edge", "gateway"):
        assert stages[program] == [f"USER {UID}:{UID}"]
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    # Compose fills in the whole file: what one profile needs would be asked of all.
    assert ":?" not in (DEPLOY / "compose.yaml").read_text()
    assert set(compose["services"]) == {"server", "worker", "edge", "gateway", "setup"}
    for service in compose["services"].values():
        assert service["user"] == f"{UID}:{UID}"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["build"]["target"] in stages
        assert {name.split(":")[0] for name in service.get("volumes", ())} <= set(
            compose["volumes"]
        )
        assert set(service.get("secrets", ())) <= set(compose["secrets"])


def test_R327_the_chart_sets_a_secret_up_and_gateways_read_it() -> None:
    documents = rendered(GIVEN)
    (setup,) = pods(named(documents, "Job", "mcp-tunnel-setup"))
    assert setup["containers"][0]["args"] == [
        *("gateway", "init", "--output=k8s-secret:mcp-tunnel"),
        "--audit-file=/var/lib/intramuros/gateway.jsonl",
        *("--edge=edge.example:443", "--edge=edge2.example:443"),
        *("--route=bank=http://10.0.0.6:8080", "--route=docs=http://10.0.0.5:8080"),
        *("--allow-ip=10.0.0.0/8", "--policy-file=", "tnl_1"),
    ]
    (gateway,) = pods(named(documents, "Deployment", "mcp-tunnel-gateway"))
    (files,) = [volume["secret"] for volume in gateway["volumes"] if volume["name"] == "files"]
    assert files["secretName"] == "mcp-tunnel"
    # What signs certificates stays in the Secret: gateways have no use for it.
    assert "ca.key" not in {item["key"] for item in files["items"]}
    rules = named(documents, "Role", "mcp-tunnel-setup")["rules"]
    assert [(rule.get("resourceNames"), rule["verbs"]) for rule in rules] == [
        (None, ["create"]),
        (["mcp-tunnel"], ["get", "patch"]),
    ]


def test_a_policy_is_where_the_gateway_looks_for_it() -> None:
    policy = 'permit(principal, action, resource); // "quoted"\n'
    assert not [d for d in rendered(GIVEN) if d["kind"] == "ConfigMap"]
    documents = rendered({**GIVEN, "policy": policy})
    kept = named(documents, "ConfigMap", "mcp-tunnel-policy")
    assert kept["data"] == {"policy.cedar": policy}
    (setup,) = pods(named(documents, "Job", "mcp-tunnel-setup"))
    (given,) = [a for a in setup["containers"][0]["args"] if a.startswith("--policy-file=")]
    (gateway,) = pods(named(documents, "Deployment", "mcp-tunnel-gateway"))
    (mount,) = [m for m in gateway["containers"][0]["volumeMounts"] if m["name"] == "policy"]
    assert given == f"--policy-file={mount['mountPath']}/policy.cedar"
    (volume,) = [v for v in gateway["volumes"] if v["name"] == "policy"]
    assert volume["configMap"]["name"] == kept["metadata"]["name"]


def commands() -> Iterator[list[str]]:
    for pod in pods(rendered(GIVEN)):
        yield from (one["args"] for one in pod["containers"] if "args" in one)
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    yield from (one["command"] for one in compose["services"].values() if "command" in one)
    for line in (DEPLOY / "Containerfile").read_text().splitlines():
        if line.startswith("CMD "):
            yield json.loads(line.removeprefix("CMD "))
    for unit in (DEPLOY / "systemd").iterdir():
        (start,) = re.findall(r"^ExecStart=\S+ (.*)$", unit.read_text(), re.MULTILINE)
        yield start.split()


def test_every_command_is_one_of_ours() -> None:
    seen = list(commands())
    assert len(seen) == 2 + 1 + 4 + 4
    for arguments in seen:
        command: Any = typer.main.get_command(app)
        for argument in arguments:
            if argument in getattr(command, "commands", {}):
                command = command.commands[argument]
        known = {option for parameter in command.params for option in parameter.opts}
        given = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
        assert given <= known, arguments


@pytest.mark.parametrize("gone", ["url", "wif.ruleId", "wif.organizationId"])
def test_what_setup_cannot_do_without_is_asked_for(gone: str) -> None:
    values = json.loads(json.dumps(GIVEN))
    *path, last = ["api", *gone.split(".")]
    place = values
    for part in path:
        place = place[part]
    place[last] = ""
    with pytest.raises(Missing, match=f"api.{gone}"):
        rendered(values)


def test_what_is_off_is_left_out() -> None:
    assert rendered({"gateway": {"enabled": False}}) == []
    assert {d["metadata"]["name"] for d in rendered({**GIVEN, "gateway": {"enabled": False}})} == {
        "mcp-tunnel-edge"
    }


def place(document: dict[str, Any]) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


@pytest.mark.timeout(240)
def test_helm_renders_the_same(tmp_path: Path) -> None:
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("NO HELM: the chart was rendered by this test's own reading of it only")
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(GIVEN))
    command = [helm, "template", "mcp-tunnel", str(CHART), "-n", "agents"]
    done = subprocess.run(
        [*command, "-f", str(tmp_path / "values.yaml")], capture_output=True, check=True, timeout=50
    )
    theirs = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert sorted(theirs, key=place) == sorted(rendered(GIVEN), key=place)


@pytest.mark.timeout(240)
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO SYSTEMD: nobody looked at the units")
    for unit in (DEPLOY / "systemd").iterdir():
        # The program is not installed here; everything else is as it is.
        started = unit.read_text().replace("/opt/intramuros/bin/intramuros", "/bin/true")
        (tmp_path / unit.name).write_text(started)
    units = sorted(map(str, tmp_path.iterdir()))
    assert len(units) == 4
    done = subprocess.run(
        ["systemd-analyze", "verify", *units],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
