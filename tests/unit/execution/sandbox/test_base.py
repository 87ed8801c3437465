import dataclasses

import pytest

from intramuros.execution.sandbox import base
from intramuros.kernel.errors import DomainError, Kind, OperatorError


def test_a_spec_denies_by_default() -> None:
    spec = base.SandboxSpec()
    assert spec.egress == "none"
    assert spec.trust is None
    assert spec.mounts == ()
    assert dict(spec.environment) == {}
    assert base.Mount(base.Path("/x"), "/mnt/x").read_only


def test_specs_cannot_change_under_a_sandbox() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        base.SandboxSpec().user = "root"


def test_temporary_space_leaves_room_in_the_memory_limit() -> None:
    # Three file systems share it; a full one keeps its memory after the kernel killed its writer.
    limits = base.Limits()
    assert 3 * limits.tmp_bytes < limits.memory_bytes


def test_errors_tell_callers_and_operators_apart() -> None:
    assert issubclass(base.SandboxGone, DomainError)
    assert base.SandboxPaused("x").kind is Kind.CONFLICT
    error = base.SandboxUnavailable("no bwrap", "install it")
    assert isinstance(error, OperatorError)
    assert str(error) == "no bwrap: install it"
