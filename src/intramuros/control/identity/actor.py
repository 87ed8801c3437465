"""Who changes something, where and when."""

from dataclasses import dataclass

from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock


@dataclass(frozen=True)
class Actor:
    """The one who acts on configured resources and credentials.

    ``by`` is the credential's id, or the name of the command that acts for the operator;
    ``reason`` is what the caller gave for it, where the API takes one; ``service_account_id``
    or ``user_id`` is whom the caller acts as.
    """

    clock: Clock
    ids: IdFactory
    workspace_id: str
    by: str
    reason: str | None = None
    service_account_id: str | None = None
    user_id: str | None = None

    @property
    def principal_id(self) -> str | None:
        """Whom the caller acts as, if it is anybody."""
        return self.user_id or self.service_account_id
