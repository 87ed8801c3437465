"""What the endpoints need, built once by ``control/app.py`` and handed down."""

from dataclasses import dataclass, field

from intramuros.control.api.pages import Cursors
from intramuros.control.catalog.exchange import Exchange
from intramuros.control.catalog.reach import Reach
from intramuros.control.catalog.rubrics import Shelf
from intramuros.control.catalog.tunnels import Issuer
from intramuros.control.catalog.validation import Validator
from intramuros.control.catalog.vaults import Credentials
from intramuros.control.catalog.wallet import Wallet
from intramuros.control.deployment.deployments import Deployments
from intramuros.control.deployment.runs import Runs
from intramuros.control.dreams.service import Dreams
from intramuros.control.identity.throttle import FailureThrottle
from intramuros.control.inference.service import Inference
from intramuros.control.metering.calls import Calls
from intramuros.control.metering.meter import Meter
from intramuros.control.model.catalogue import Catalogue
from intramuros.control.model.registry import Models
from intramuros.control.model.upstream import Upstream
from intramuros.control.session.checkouts import Checkouts
from intramuros.control.session.egress import Egress
from intramuros.control.session.intake import Intake
from intramuros.control.session.journal import Journal
from intramuros.control.session.releases import Releases
from intramuros.control.session.sessions import Sessions
from intramuros.control.session.visits import Visits
from intramuros.control.session.web_queue import WebQueue
from intramuros.control.session.work import WorkQueue
from intramuros.control.store.blobs import Blobs
from intramuros.control.store.db import Database
from intramuros.control.store.notify import Hub
from intramuros.control.tracing.exporter import Exporter
from intramuros.control.tracing.recorder import Recorder
from intramuros.control.webhooks.endpoints import Endpoints
from intramuros.kernel.ids import IdFactory
from intramuros.kernel.timing import Clock


@dataclass(frozen=True)
class Storage:
    """What may be uploaded: bytes of one file, bytes of everything, and whether it comes back."""

    max_file_bytes: int
    quota_bytes: int
    uploads_downloadable: bool


@dataclass(frozen=True)
class Services:
    """The collaborators of the API; no module holds any of them as state."""

    db: Database
    blobs: Blobs
    storage: Storage
    clock: Clock
    ids: IdFactory
    hub: Hub
    work: WorkQueue
    journal: Journal
    intake: Intake
    """Takes clients' events."""
    sessions: Sessions
    egress: Egress
    """Tells workers what sandboxes may reach."""
    checkouts: Checkouts
    """Tells workers what to clone and is told what became of it."""
    releases: Releases
    """Keeps what workers ask before something leaves them, and what people answer."""
    visits: Visits
    """Lets people into the sandboxes of sessions."""
    deployments: Deployments
    runs: Runs
    """Starts sessions of deployments."""
    cursors: Cursors
    voices_key: bytes = field(repr=False)
    """Seals what the servers of one database tell each other."""
    throttle: FailureThrottle
    issuer: Issuer
    """Makes tunnel domains and tokens."""
    reach: Reach
    """Tells the edges of rotated tokens."""
    credentials: Credentials
    """Stores vault credentials and opens them."""
    wallet: Wallet
    """Carries credentials to MCP servers."""
    models: Catalogue
    """What is known of models."""
    brains: Models
    """The models themselves."""
    validator: Validator
    exchange: Exchange
    """Makes tokens out of identity providers' assertions."""
    upstream: Upstream
    """The model provider as it is."""
    dreams: Dreams
    inference: Inference
    """The Messages API's own part."""
    web_queue: WebQueue
    """Web calls that workers make."""
    meter: Meter
    """Limits and counts the use of models."""
    calls: Calls
    """Limits calls of the API."""
    endpoints: Endpoints
    """Configures where webhooks go."""
    recorder: Recorder
    """Writes spans for telemetry destinations."""
    exporter: Exporter
    """Sends them."""
    organization_id: str
    """A UUID; this installation is one organization."""
    lenient: bool = False
    """Ignore unknown body fields instead of refusing them."""

    @property
    def shelf(self) -> Shelf:
        """What reads rubrics that lie in files."""
        return Shelf(self.db, self.blobs, self.clock)
