"""Any history of workflow runs, cut by crashes, keeps the order that the contract promises."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intramuros.control.model.base import ModelReply, Usage
from intramuros.control.session import workflow
from intramuros.control.session.phase import Status
from intramuros.control.session.runs import MAX_THREADS, move
from intramuros.control.session.turn import Limits
from intramuros.control.store.records import Draft
from tests.fakes.band import WISE
from tests.fakes.flows import ON, check_runs, flow, phase, planner, step
from tests.fakes.loop import ALLOW, CUSTOM, toolset, use
from tests.integration.control.session import test_ensemble_replay as ensemble
from tests.integration.control.session.test_ensemble_replay import HELPER, READ, WORKER

AGENTS = ["worker", "worker", "helper", "critic"]
RUN_S = 30
SECOND_US = 1_000_000


class History(ensemble.History):
    """The same with an agent that starts and stops workflow runs, and a clock that they heed."""

    declared = planner(
        WORKER,
        HELPER,
        subagents={**ON, "inline_agents": ON, "predefined_agents": [WORKER, HELPER]},
        advisor={"type": "enabled", "model": WISE},
        tools=(toolset(ALLOW, read=READ), CUSTOM),
    )
    limits = Limits(failures=2, rounds=5, run_s=RUN_S)

    def planned(self) -> None:
        super().planned()
        state = self.band.log.state
        for run in state.runs:
            assert move(run, state.stand(run)) is None, "what a run can do by itself is done"
            works = any(
                thread.run_id == run.id and thread.own_status is not Status.IDLE
                for thread in state.threads
            )
            assert (run.told is Status.RUNNING) == works
            if (until_us := run.deadline_us(RUN_S * SECOND_US)) is not None:
                assert self.band.log.now_us < until_us + SECOND_US
        assert state.slots <= MAX_THREADS
        known = {run.id for run in state.runs}
        assert {t.run_id for t in state.threads if t.run_id} <= known, "no thread outlives its run"

    def step(self) -> None:
        if self.draw(st.integers(0, 7)) == 0:
            self.band.log.now_us += 7 * SECOND_US
        super().step()

    def use(self, name: str, model_id: str) -> dict[str, object]:
        if name != "lead" or self.draw(st.booleans()):
            return super().use(name, model_id)
        if self.draw(st.integers(0, 4)) == 0:
            known = [run.id for run in self.band.log.state.runs]
            run_id = self.draw(st.sampled_from([*known, "wrun_none"]))
            return use("stop_workflow", model_id, workflow_run_id=run_id)
        return self.flow(model_id)

    def flow(self, model_id: str) -> dict[str, object]:
        """A plan, sound for the most part."""
        phases: list[Any] = []
        earlier: list[str] = []
        for _ in range(self.draw(st.integers(1, 3))):
            steps = []
            for _ in range(self.draw(st.integers(1, 3))):
                agent = self.draw(st.sampled_from([*AGENTS, *AGENTS, "nobody"]))
                uses = self.draw(st.sampled_from([(), (), tuple(earlier)]))
                steps.append(step(f"s{len(phases)}{len(steps)}", agent, *uses))
            earlier += [str(made["name"]) for made in steps]
            phases.append(phase(f"p{len(phases)}", *steps))
        inline = [{"name": "critic", "system": "Find faults."}]
        return flow(*phases, model_id=model_id, inline_agents=inline)

    def archive(self) -> None:
        """End the session as the API does, once it is idle."""
        log = self.band.log
        if log.state.status is not Status.IDLE or log.state.due:
            return
        log.append(*workflow.closing(log.state))
        thread = {"session_thread_id": "sthr_main", "agent_name": "lead"}
        log.append(
            Draft("session.thread_status_terminated", thread), Draft("session.status_terminated")
        )


@given(st.data(), st.booleans(), st.integers(1, 50))
@pytest.mark.timeout(240)
@pytest.mark.rule("c15_28")
@settings(max_examples=60, deadline=None)
def test_every_history_of_runs_comes_to_a_valid_end(
    data: Any, self_hosted: bool, steps: int
) -> None:
    history = History(data.draw, self_hosted)
    band = history.band
    first = history.flow("toolu_0")
    band.scripts["lead"].append(ModelReply([first], "tool_use", Usage(1, 1)))
    band.next()
    if "sthr_main" in band.flights:
        band.land("sthr_main")
    for _ in range(steps):
        history.planned()
        history.step()
    if data.draw(st.booleans()):
        history.archive()
    if band.log.state.status is not Status.TERMINATED:
        history.settle()
    assert band.log.state.runs == ()
    check_runs(band.log.records)
    if band.log.state.status is not Status.TERMINATED:
        ensemble.check_log(band)
    ensemble.check_folds(band)
