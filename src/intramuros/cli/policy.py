"""``intramuros gateway policy``: try policies before a gateway keeps them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from intramuros.cli.options import imported
from intramuros.cli.output import note, say
from intramuros.cli.records import verified_records
from intramuros.kernel.errors import OperatorError

if TYPE_CHECKING:
    from intramuros.tunnel.policy import Policy, Ruling

app = typer.Typer(help="Try policies before a gateway keeps them.", no_args_is_help=True)

GUARD = "intramuros.tunnel.guard"
REPLAY = "intramuros.tunnel.replay"
FileArgument = Annotated[Path, typer.Argument(help="The policy, in Cedar.", metavar="FILE")]


@dataclass(frozen=True)
class Asking:
    """One question: what is known of the call, and what the gateway did at the time, if it did."""

    title: str
    fields: Mapping[str, Any]
    before: str | None = None


@app.command("check")
def check(
    file: FileArgument,
    config: Annotated[
        Path | None, typer.Option(help="A gateway's file: are its routes the policy's servers?")
    ] = None,
) -> None:
    """Say whether a gateway would take a policy, and what it is known by.

    Example: intramuros gateway policy check policy.cedar --config gateway/gateway.yaml
    """
    policy = _load(file)
    say(f"{file}\t{policy.size} policies\t{policy.digest}")
    if config is None:
        return
    known = imported("intramuros.tunnel.config", "tunnel", "load_config")(config).routes.routes
    unknown = sorted(policy.servers - set(known))
    if unknown:
        raise OperatorError(
            f"the policy speaks of {', '.join(unknown)}, which {config} has no route to",
            f"its routes are {', '.join(sorted(known))}",
        )


@app.command("explain")
def explain(
    file: FileArgument,
    audit: Annotated[
        Path | None, typer.Option(help="A gateway's audit file: what of it would be allowed?")
    ] = None,
    seq: Annotated[int | None, typer.Option(help="Only this record of it.")] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Only calls that were decided otherwise.")
    ] = False,
    question: Annotated[
        str | None, typer.Option(help="A call of your own, as JSON: who, action, route, name.")
    ] = None,
    arguments: Annotated[
        str | None, typer.Option(help="The call's arguments, as JSON; records do not hold them.")
    ] = None,
) -> None:
    """Say what a policy decides of recorded calls, or of one of your own, and by which rules.

    Each line: the record, who and what, the decision, its reason, the policies that decided.
    Status 0 whatever is decided.

    Example: intramuros gateway policy explain new.cedar --audit gateway/audit.jsonl --changed
    """
    policy = _load(file)
    given = _object(arguments, "--arguments")
    if (audit is None) == (question is None):
        raise OperatorError("nothing to explain, or two things", "pass --audit or --question")
    if question is not None:
        asked: Iterator[Asking] = iter([Asking("question", _object(question, "--question") or {})])
    else:
        asked = _recorded(audit or Path(), seq)
    count = 0
    for one in asked:
        count += 1
        _explain(policy, one, given, changed=changed)
    if not count:
        raise OperatorError("there is no such call in the record", "pass another --audit or --seq")
    if given is None and policy.looks_at_arguments:
        note("the policy looks at arguments, and none were given: pass --arguments")


def _explain(
    policy: "Policy", one: Asking, given: Mapping[str, object] | None, *, changed: bool
) -> None:
    bad = imported(REPLAY, "tunnel", "BadQuestion")
    try:
        asked = imported(REPLAY, "tunnel", "question_of")(one.fields, given)
    except bad as error:
        raise OperatorError(
            f"{one.title} cannot be judged: {error}", "give who, action, route and name"
        ) from error
    ruling: Ruling = policy.judge(asked)
    decision = "allow" if ruling.allowed else "deny"
    if changed and one.before in (decision, None):
        return
    who = ", ".join(f"{entry.kind}:{entry.id}" for entry in asked.who) or "nobody"
    what = f"{asked.act.action} {asked.act.target}::{asked.act.target_id}"
    was = f" (was {one.before})" if one.before not in (decision, None) else ""
    say("\t".join([one.title, who, what, decision + was, ruling.reason, *ruling.policies]))
    for text in ruling.errors:
        note(f"{one.title}: {text}")


def _recorded(audit: Path, seq: int | None) -> Iterator[Asking]:
    """Give the calls of a verified audit file."""
    kinds = imported(REPLAY, "tunnel", "KINDS")
    for record in verified_records(audit):
        fields = record["fields"]
        if record["kind"] in kinds and "action" in fields and seq in (None, record["seq"]):
            # Without a policy whatever has a route was let through.
            before = fields.get("decision", "allow")
            yield Asking(f"record {record['seq']}", fields, before)


def _load(file: Path) -> "Policy":
    loaded: Policy = imported(GUARD, "tunnel", "load_policy")(file)
    return loaded


def _object(text: str | None, option: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OperatorError(f"{option} is no JSON ({error})", "write a JSON object") from error
    if not isinstance(value, dict):
        raise OperatorError(f"{option} is no JSON object", 'write such as {"path": "/srv"}')
    return value
