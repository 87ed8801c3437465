"""A gate with the default policy, compiled once for all tests."""

from intramuros.execution.outflow.gate import Gate
from intramuros.execution.outflow.policy import Policy, default_policy

POLICY = default_policy()
KEY = bytes(range(32))


def gate(*held: str, policy: Policy = POLICY) -> Gate:
    """Return a gate that knows these secrets."""
    made = Gate(policy, KEY)
    made.learn("test", held)
    return made
