import pytest

from intramuros.control.model.cost import UNITS_PER_CENT
from intramuros.control.session import legality
from intramuros.control.session.budget import shown
from intramuros.control.session.legality import Past, check, resolve, wanted_past
from intramuros.control.session.phase import Phase
from intramuros.control.store.records import Draft, Record
from intramuros.kernel.errors import InvalidRequest, NotFound, RateLimited
from intramuros.protocol.events import INBOUND, Inbound
from tests.fakes.log import MemoryLog

TEXT = [{"type": "text", "text": "x"}]


def event(type: str, **body: object) -> Inbound:
    return INBOUND.validate_python({"type": type, **body})


def message() -> Inbound:
    return event("user.message", content=TEXT)


def system() -> Inbound:
    return event("system.message", content=TEXT)


def result(use_id: str) -> Inbound:
    return event("user.tool_result", tool_use_id=use_id, content=TEXT, is_error=False)


def custom(use_id: str) -> Inbound:
    return event("user.custom_tool_result", custom_tool_use_id=use_id)


def verdict(use_id: str, value: str = "allow", **more: object) -> Inbound:
    return event("user.tool_confirmation", tool_use_id=use_id, result=value, **more)


def unstored(draft: Draft) -> Record:
    return Record("sesn_1", 0, "sevt_unstored", draft.type, 0, draft.body, queued=True)


class Calls(MemoryLog):
    """A turn that waits for one call of each kind; their ids are the members."""

    def __init__(self, *, self_hosted: bool = True) -> None:
        super().__init__(self_hosted=self_hosted)
        waiting = self.say()
        self.append(
            Draft("session.status_running"),
            Draft("user.message", {"content": TEXT}, id=waiting),
            Draft("span.model_request_start", private={"epoch": 1}),
        )
        self.free = self.use("agent.tool_use", evaluated_permission="allow")
        self.ask = self.use("agent.tool_use", evaluated_permission="ask")
        self.never = self.use("agent.tool_use", evaluated_permission="deny")
        self.custom = self.use("agent.custom_tool_use")
        self.mcp = self.use("agent.mcp_tool_use", mcp_server_name="m", evaluated_permission="ask")

    def use(self, type: str, **body: object) -> str:
        return self.append(Draft(type, {"name": "bash", "input": {}, **body}))[0].id

    def judge(self, *inbound: Inbound, hosted: bool = False) -> list[legality.Outcome]:
        past = {use_id: self.past(use_id) for use_id in wanted_past(self.state, inbound)}
        return check(self.state, past, inbound, self.now_us, hosted=hosted)

    def past(self, use_id: str) -> Past:
        use = next((r for r in self.records if r.id == use_id), None)
        members = ("tool_use_id", "custom_tool_use_id")
        answers = [r for r in self.records if use_id in (r.body.get(m) for m in members)]
        return Past(use, answers)

    def take(self, *inbound: Inbound) -> None:
        self.append(*(o for o in self.judge(*inbound) if isinstance(o, Draft)))


@pytest.fixture
def log() -> Calls:
    return Calls()


def refused(log: Calls, *inbound: Inbound, match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        log.judge(*inbound)


def test_input_becomes_rows_that_wait_and_results_become_facts(log: Calls) -> None:
    outcomes = log.judge(message(), result(log.free), custom(log.custom), event("user.interrupt"))
    assert [(o.type, o.queued) for o in outcomes if isinstance(o, Draft)] == [
        ("user.message", True),
        ("user.tool_result", False),
        ("user.custom_tool_result", False),
        ("user.interrupt", True),
    ]
    assert outcomes[1].body == {"tool_use_id": log.free, "content": TEXT, "is_error": False}
    assert outcomes[2].body == {"custom_tool_use_id": log.custom}


def test_13_20_a_terminated_session_takes_nothing() -> None:
    log = MemoryLog()
    log.append(Draft("session.status_terminated"))
    with pytest.raises(InvalidRequest, match="terminated"):
        check(log.state, {}, [message()], 0)


def test_13_7_tool_results_belong_to_self_hosted_sessions() -> None:
    log = Calls(self_hosted=False)
    refused(log, result(log.free), match="self_hosted")
    assert isinstance(log.judge(custom(log.custom))[0], Draft)


def test_in_the_cloud_the_pools_worker_answers_for_the_agent() -> None:
    log = Calls(self_hosted=False)
    (draft,) = log.judge(result(log.free), hosted=True)
    assert isinstance(draft, Draft)
    assert (draft.type, draft.queued) == ("agent.tool_result", False)
    assert draft.body == {"tool_use_id": log.free, "content": TEXT, "is_error": False}
    log.append(draft)
    (stored,) = log.judge(result(log.free), hosted=True)
    assert stored == log.records[-1]
    for use_id, why in ((log.ask, "not been allowed"), (log.never, "not been allowed")):
        with pytest.raises(InvalidRequest, match=why):
            log.judge(result(use_id), hosted=True)


def test_amb_21_unknown_and_mismatched_ids_are_refused(log: Calls) -> None:
    refused(log, result("sevt_none"), match="no tool use of this session")
    refused(log, verdict("sevt_none"), match="no tool use")
    refused(log, result(log.custom), match="custom call")
    refused(log, custom(log.free), match="sandbox call")
    refused(log, result(log.mcp), match="mcp call")
    refused(log, message(), verdict(log.free), match=r"events\[1\].*does not wait")
    refused(log, verdict(log.custom), match="does not wait")


def test_a_call_that_was_not_allowed_cannot_have_a_result(log: Calls) -> None:
    refused(log, result(log.ask), match="not been allowed")
    refused(log, result(log.never), match="not been allowed")
    log.take(verdict(log.ask, "deny"))
    refused(log, result(log.ask), match="not been allowed")


def test_an_allow_counts_from_its_arrival_and_within_its_request(log: Calls) -> None:
    assert all(isinstance(o, Draft) for o in log.judge(verdict(log.ask), result(log.ask)))
    refused(log, verdict(log.ask, "deny"), result(log.ask), match=r"events\[1\]")
    log.take(verdict(log.ask))
    assert isinstance(log.judge(result(log.ask))[0], Draft)


@pytest.mark.rule("c22_12")
def test_amb_21_a_repeated_answer_is_the_stored_one(log: Calls) -> None:
    log.take(result(log.free), verdict(log.ask), custom(log.custom))
    stored = {r.type: r for r in log.records[-3:]}
    assert log.judge(verdict(log.ask), custom(log.custom), result(log.free)) == [
        stored["user.tool_confirmation"],
        stored["user.custom_tool_result"],
        stored["user.tool_result"],
    ]


def test_amb_21_a_verdict_cannot_be_turned_round(log: Calls) -> None:
    log.take(verdict(log.ask, "deny"))
    refused(log, verdict(log.ask, "allow"), match="answered deny already")
    log.take(verdict(log.mcp, "allow"))
    refused(log, verdict(log.mcp, "deny"), match="answered allow already")
    refused(log, verdict(log.free), match="does not wait")


def test_a_settled_call_of_another_kind_of_answer_is_refused(log: Calls) -> None:
    log.take(result(log.free))
    refused(log, custom(log.free), match="takes no such result")
    refused(log, verdict(log.free), match="does not wait")


def test_repeats_within_a_request_are_one_event(log: Calls) -> None:
    outcomes = log.judge(result(log.free), result(log.free), verdict(log.ask), verdict(log.ask))
    assert [outcomes[1], outcomes[3]] == [0, 2]
    drafts = [o for o in outcomes if isinstance(o, Draft)]
    written = log.append(*drafts)
    assert resolve(outcomes, iter(written), unstored) == [written[0]] * 2 + [written[1]] * 2
    other = Calls()
    refused(other, verdict(other.ask), verdict(other.ask, "deny"), match="allow in this request")


def test_13_9_a_deny_message_goes_with_deny(log: Calls) -> None:
    refused(log, verdict(log.ask, "allow", deny_message="no"), match="deny_message")
    denial = log.judge(verdict(log.ask, "deny", deny_message="no"))[0]
    assert isinstance(denial, Draft)
    assert denial.body["deny_message"] == "no"


def test_13_14_an_interrupt_names_this_sessions_thread(log: Calls) -> None:
    assert log.judge(event("user.interrupt", session_thread_id="sthr_main"))
    with pytest.raises(NotFound):
        log.judge(event("user.interrupt", session_thread_id="sthr_other"))


def test_13_15_amb_53_where_a_system_message_may_stand() -> None:
    idle = MemoryLog()
    assert check(idle.state, {}, [system()], 0)
    assert check(idle.state, {}, [message(), system()], 0)
    for wrong in ([system(), message()], [message(), system(), system()]):
        with pytest.raises(InvalidRequest, match="once and last"):
            check(idle.state, {}, wrong, 0)
    with pytest.raises(InvalidRequest, match="follows"):
        check(idle.state, {}, [event("user.interrupt"), system()], 0)


def test_13_16_while_calls_are_open_it_follows_a_result(log: Calls) -> None:
    refused(log, system(), match="waits for nothing")
    refused(log, message(), system(), match="follows a tool result")
    assert len(log.judge(result(log.free), system())) == 2


def test_waiting_inputs_are_bounded(log: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legality, "MAX_WAITING", 2)
    log.take(message(), message())
    with pytest.raises(RateLimited):
        log.judge(message())
    assert isinstance(log.judge(result(log.free))[0], Draft), "results are always taken"


def capped() -> Calls:
    log = Calls()
    log.append(Draft("internal.budget", {"budget": shown(1)}))
    used = {"input_tokens": 9, "output_tokens": 0, "cache_creation_input_tokens": 0}
    end = {"model_request_start_id": log.state.request.start_id}
    end["model_usage"] = {**used, "cache_read_input_tokens": 0}
    log.append(Draft("span.model_request_end", end, private={"cost": UNITS_PER_CENT}))
    return log


@pytest.mark.rule("R285")
def test_c12_7_at_the_cap_only_what_settles_is_taken() -> None:
    log = capped()
    allowed = "user.tool_confirmation, user.tool_result, user.custom_tool_result, user.interrupt"
    for wrong in (
        [message()],
        [system()],
        [result(log.free), message()],
        [result(log.free), system()],
    ):
        with pytest.raises(InvalidRequest, match=allowed) as caught:
            log.judge(*wrong)
        assert caught.value.hints.code == "budget_reached"
    taken = log.judge(
        result(log.free), verdict(log.ask), custom(log.custom), event("user.interrupt")
    )
    assert all(isinstance(outcome, Draft) for outcome in taken)


def test_c12_9_an_interrupt_of_a_paused_session_is_taken_and_forgotten() -> None:
    log = capped()
    for call in log.state.calls:
        answered = {
            "tool_use_id": call.id,
            "custom_tool_use_id": call.id,
            "mcp_tool_use_id": call.id,
        }
        kind = {"custom": "user.custom_tool_result", "mcp": "agent.mcp_tool_result"}
        log.append(Draft(kind.get(call.kind, "user.tool_result"), answered))
    pause = {"stop_reason": {"type": "budget_reached"}}
    log.append(Draft("session.status_idle", pause, private={"paused": True}))
    assert log.state.phase is Phase.PAUSED
    interrupt = event("user.interrupt")
    outcomes = log.judge(interrupt)
    assert isinstance(outcomes[0], legality.Ignored)
    (echo,) = resolve(outcomes, iter(()), unstored)
    assert (echo.type, echo.public()["processed_at"]) == ("user.interrupt", None)
    log.append(Draft("session.updated", {"budget": None}))
    assert isinstance(log.judge(interrupt)[0], Draft), "it counts again once work goes on"


def test_a_definition_is_a_fact_with_its_iterations() -> None:
    rubric = {"type": "text", "content": "- a"}
    log = Calls()
    (draft,) = log.judge(event("user.define_outcome", description="x", rubric=rubric))
    assert isinstance(draft, Draft)
    assert (draft.queued, draft.body) == (
        False,
        {"description": "x", "rubric": rubric, "max_iterations": 3},
    )
    filed = {"type": "file", "file_id": "file_1"}
    refused(log, event("user.define_outcome", description="x", rubric=filed), match="been read")
    with pytest.raises(InvalidRequest, match=r"takes no user\.define_outcome"):
        capped().judge(event("user.define_outcome", description="x", rubric=rubric))
