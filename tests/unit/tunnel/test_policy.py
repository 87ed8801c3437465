import time
from typing import TYPE_CHECKING, Any

import pytest

from intramuros.protocol.who import NOBODY_KNOWN, Group, Kind, Who
from intramuros.tunnel.acts import Act, Action
from intramuros.tunnel.policy import MAX_POLICY_BYTES, Asked, BadPolicy, Policy, Ruling

if TYPE_CHECKING:
    from collections.abc import Callable

OPS, DEV = Group("rbac_group_ops", "Ops"), Group("rbac_group_dev", "Developers")
ANN = Who(Kind.USER, "user_ann", "ann@example.com", (OPS,))
BOB = Who(Kind.USER, "user_bob", "bob@example.com", (DEV,))
BOT = Who(Kind.SERVICE_ACCOUNT, "svac_1")
KEY = Who(Kind.API_KEY, "apikey_1")
NIGHTLY = Who(Kind.DEPLOYMENT, "depl_1")

POLICY = Policy(
    b"""
    @id("ops") permit(principal in Group::"rbac_group_ops", action, resource in Server::"docs");
    @id("dev-read") permit(
        principal in Group::"rbac_group_dev",
        action == Action::"call_tool",
        resource == Tool::"docs/read"
    ) when { context.arguments has path && context.arguments.path like "/srv/*" };
    @id("bots") permit(principal is ServiceAccount, action, resource)
        when { context.agent.id == "agent_1" };
    @id("no-rm") forbid(principal, action == Action::"call_tool", resource == Tool::"docs/rm");
    @id("no-prod") forbid(principal, action, resource == Tool::"docs/deploy")
        when { context.arguments.target == "prod" };
    """
)


def ask(*who: Who, tool: str = "read", server: str = "docs", **arguments: object) -> Asked:
    act = Act(Action.CALL_TOOL, server, tool, "tools/call", arguments=arguments)
    return Asked(who, act, workspace="wrkspc_1", agent="agent_1", agent_version=3)


@pytest.mark.parametrize(
    ("asked", "reason", "policies"),
    [
        (ask(ANN), "permitted", ("ops",)),
        (ask(ANN, server="bank"), "not_permitted", ()),
        (ask(ANN, tool="rm"), "forbidden", ("no-rm",)),
        (ask(ANN, tool="deploy", target="test"), "permitted", ("ops",)),
        (ask(ANN, tool="deploy", target="prod"), "forbidden", ("no-prod",)),
        # A forbid that errs would be left out by Cedar; here it closes.
        (ask(ANN, tool="deploy"), "policy_error", ("ops",)),
        (ask(BOB, path="/srv/a"), "permitted", ("dev-read",)),
        (ask(BOB, path="/etc/passwd"), "not_permitted", ()),
        (ask(BOB), "not_permitted", ()),
        (ask(BOB, path=7), "policy_error", ()),
        (ask(BOB, tool="READ", path="/srv/a"), "not_permitted", ()),
        (ask(BOT, server="any", tool="any"), "permitted", ("bots",)),
        (ask(KEY), "not_permitted", ()),
        (ask(NIGHTLY), "not_permitted", ()),
        # Everybody who steers a session must be allowed what it does.
        (ask(ANN, BOB, path="/srv/a"), "permitted", ("ops", "dev-read")),
        (ask(ANN, BOB, path="/etc/a"), "not_permitted", ()),
        (ask(), "nobody", ()),
        (ask(ANN, NOBODY_KNOWN), "nobody", ()),
        (ask(ANN, x="\ud800"), "unjudgeable", ()),
        # Else "in the server" would permit what "this tool" forbids.
        (ask(ANN, tool=""), "nameless", ()),
    ],
)
def test_who_may_do_what(asked: Asked, reason: str, policies: tuple[str, ...]) -> None:
    ruling = POLICY.judge(asked)
    assert (ruling.reason, ruling.policies) == (reason, policies), ruling.errors
    assert ruling.allowed == (reason == "permitted")


def test_an_empty_policy_allows_nothing() -> None:
    assert POLICY.size == 5
    for text in (b"", b"// nothing"):
        assert Policy(text).judge(ask(ANN)) == Ruling(False, "not_permitted")


def test_t31_people_are_known_by_group_workspace_and_address() -> None:
    policy = Policy(
        b"""permit(principal is User in Workspace::"wrkspc_1", action, resource)
        when { principal.email like "*@example.com" && principal.groups.contains("Ops") };"""
    )
    assert policy.judge(ask(ANN)).allowed
    assert not policy.judge(ask(BOB)).allowed
    # A key has no address: the policy errs for it, which closes.
    assert not policy.judge(ask(KEY)).allowed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"permit(", "no Cedar"),
        (b"\xff", "no Cedar"),
        (b"permit(principal == ?principal, action, resource);", "templates"),
        (b'forbid(principal == Usr::"x", action, resource);', "no type 'Usr'"),
        (b"forbid(principal is Usr, action, resource);", "no type 'Usr'"),
        (b'forbid(principal, action, resource) when { resource == Tol::"x" };', "no type 'Tol'"),
        (b'forbid(principal, action == Action::"call", resource);', "no action 'call'"),
        (b'forbid(principal, action in [Action::"call_tol"], resource);', "no action"),
        (b" " * (MAX_POLICY_BYTES + 1), "larger"),
        (b"permit(principal, action, resource) when { " + b"!" * 5000 + b"true };", "no Cedar"),
        (b"permit(principal, action, resource) when { " + b"(" * 5000 + b"};", "no Cedar"),
    ],
)
def test_a_policy_that_could_not_mean_what_it_says_is_refused(text: bytes, why: str) -> None:
    with pytest.raises(BadPolicy, match=why):
        Policy(text)


def test_annotations_may_say_anything() -> None:
    text = b'@type("Usr") @id("x") permit(principal, action, resource);'
    assert Policy(text).judge(ask(KEY)).policies == ("x",)


def test_arguments_are_looked_at_only_by_policies_that_do() -> None:
    huge = {"x": "a" * 1_000_000, "__entity": 1}
    asked = ask(ANN, **huge)
    assert Policy(b"permit(principal, action, resource);").judge(asked).allowed
    assert POLICY.judge(asked).reason == "unjudgeable"


def test_t32_arguments_cannot_pose_as_entities() -> None:
    policy = Policy(
        b"""permit(principal, action, resource)
        when { context.arguments has owner && context.arguments.owner == principal };"""
    )
    posing: Any = {"__entity": {"type": "User", "id": "user_ann"}}
    assert policy.judge(ask(ANN, owner=posing)).reason == "unjudgeable"


@pytest.mark.parametrize(
    ("who", "shown"),
    [
        ((ANN,), [True, True, False]),
        # With a path that fits, Bob may read; what he could never call, he does not see.
        ((BOB,), [True, False, False]),
        ((ANN, BOB), [True, False, False]),
        ((KEY,), [False, False, False]),
        ((), [False, False, False]),
        ((NOBODY_KNOWN,), [False, False, False]),
    ],
)
def test_lists_show_what_could_be_used(who: tuple[Who, ...], shown: list[bool]) -> None:
    listing = Asked(who, Act(Action.CONNECT, "docs", method="tools/list"))
    assert POLICY.usable(listing, "tools", ["read", "deploy", "rm"]) == shown


def test_lists_and_calls_agree() -> None:
    """What may be called with some arguments is shown, and what is hidden may not be called."""
    tries: list[Callable[[Who, str], Asked]] = [
        lambda who, tool: ask(who, tool=tool),
        lambda who, tool: ask(who, tool=tool, path="/srv/x", target="test"),
        lambda who, tool: ask(who, tool=tool, path="/etc", target="prod"),
    ]
    for who in (ANN, BOB, BOT, KEY):
        listing = Asked((who,), Act(Action.CONNECT, "docs"), agent="agent_1")
        for tool in ("read", "deploy", "rm", "other"):
            callable_ = any(POLICY.judge(make(who, tool)).allowed for make in tries)
            assert POLICY.usable(listing, "tools", [tool])[0] == callable_, (who, tool)


def test_one_decision_among_fifty_policies_costs_under_two_milliseconds() -> None:
    rules = "".join(
        f'permit(principal in Group::"g{n}", action, resource == Tool::"docs/t{n}");'
        for n in range(50)
    )
    policy = Policy(rules.encode())
    groups = tuple(Group(f"g{n}", f"Group {n}") for n in range(20))
    asked = ask(Who(Kind.USER, "user_1", "u@example.com", groups), tool="t7")
    times = []
    for _ in range(50):
        began = time.perf_counter()
        assert policy.judge(asked).allowed
        times.append(time.perf_counter() - began)
    assert sorted(times)[25] < 0.002
