"""What ``intramuros server`` can be told: one dataclass, read by flags, environment and file."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class ServerSettings:
    """Settings of ``intramuros server``."""

    data_dir: Path = Path("intramuros-data")
    """Directory of everything the server keeps; it alone restores the server."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 7700
    """Port to listen on; 0 takes a free one."""
    leave_s: float = 0.0
    """Seconds for which a server that is asked to stop goes on, while /readyz says 503 and answers
    end their connections, so that balancers and clients turn to others."""
    database_url: str | None = field(default=None, repr=False)
    """Database, as sqlite:///PATH or postgresql://USER@HOST/NAME; a file in the data directory by
    default."""
    database_wait_s: float = 30.0
    """Seconds to wait at the start for a PostgreSQL that is not up yet; 0 to give up at once."""
    database_statement_timeout_s: float = 30.0
    """Seconds after which PostgreSQL cuts a statement off, and its caller gets a 504; 0 for never.
    Migrations, backups and checks take as long as they take."""
    database_direct_url: str | None = field(default=None, repr=False)
    """The same database past a pooler that hands out connections by transaction: servers wake each
    other, and tell each other previews and rates, over two connections to it."""
    database_replica: tuple[str, ...] = field(default=(), repr=False)
    """Read replicas of a PostgreSQL database, as postgresql://USER@HOST/NAME: lists are read there,
    as soon as they have all that was written when the request came."""
    bootstrap_api_key: str | None = field(default=None, repr=False)
    """The first API key; generated into DATA_DIR/api-key by default."""
    base_domain: str = "intramuros.internal"
    """Tunnels get domains under tunnel.BASE_DOMAIN."""
    edge: tuple[str, ...] = ()
    """Edges to dial, as HOST:PORT."""
    edge_ca_file: Path | None = None
    """PEM of the CA that signs the edges' certificates; the system's CAs by default."""
    model_base_url: str | None = field(
        default=None,
        metadata={"env": ("INTRAMUROS_MODEL_BASE_URL", "ANTHROPIC_UPSTREAM_BASE_URL")},
    )
    """Base URL of a Messages-compatible model provider."""
    model_api_key: str | None = field(
        default=None,
        repr=False,
        metadata={"env": ("INTRAMUROS_MODEL_API_KEY", "ANTHROPIC_UPSTREAM_API_KEY")},
    )
    """The model provider's key."""
    model_scripts: Path | None = None
    """Directory of scripts for models named scripted/NAME."""
    models_file: Path | None = None
    """YAML file of models that adds to the list of known ones, and wins over it."""
    judge_model: str | None = None
    """Model that judges the tool calls of agents whose policy is auto; each agent's own by
    default."""
    mcp_networks: tuple[str, ...] = ()
    """Private networks whose MCP servers may be reached directly, as 10.1.0.0/16."""
    issuer_networks: tuple[str, ...] = ()
    """Private networks whose identity providers may be asked for their keys, as 10.1.0.0/16."""
    audience: tuple[str, ...] = ()
    """What identity tokens may be made out for (aud): the server's public URL, say."""
    webhook_networks: tuple[str, ...] = ()
    """Private networks that webhooks may be sent to, as 10.1.0.0/16."""
    webhook_ports: tuple[int, ...] = (443,)
    """Ports that the URLs of webhook endpoints may name."""
    webhook_ca_file: Path | None = None
    """PEM of further CAs that may sign the certificates of webhook endpoints."""
    webhook_timeout_s: float = 30.0
    """Seconds that one attempt to deliver a webhook may take."""
    webhook_retry_min_s: float = 5.0
    """The shortest wait before a webhook is sent again, in seconds."""
    webhook_retry_max_s: float = 120.0
    """The longest wait before a webhook is sent again, in seconds."""
    webhook_disable_after_s: float = 86_400.0
    """Seconds of unbroken failure after which a webhook endpoint is disabled."""
    dormancy_s: float = 300.0
    """Seconds without an event after which an idle session lets go of its worker; 0 for never."""
    session_retention_days: float = 0.0
    """Days after which a session that has ended (terminated or archived) is deleted, with its log
    and its files; 0 for never. The audit chain keeps what was recorded of it."""
    dream_budget_s: float = 6 * 3600.0
    """Seconds that a dream may run."""
    blob_url: str | None = None
    """Where files and skills are kept, as s3://BUCKET/PREFIX, gs://, az:// or file:///PATH; a
    directory in the data directory by default."""
    max_file_bytes: int = 500 * 1024 * 1024
    """The largest file that may be uploaded."""
    storage_quota_bytes: int = 10**12
    """What all files and skills may take together."""
    max_spill_bytes: int = 8 * 1024 * 1024
    """The most that is kept, for the session's sandbox, of a result of an MCP server that is too
    long for the model; 15728640 at most, 0 for nothing."""
    uploads_downloadable: bool = False
    """Let files that clients upload be downloaded again; the official service refuses that."""
    trace_networks: tuple[str, ...] = ()
    """Private networks whose trace collectors may be reached, at any port, as 10.1.0.0/16."""
    trace_ca_file: Path | None = None
    """PEM of a CA that signs collectors' certificates, besides the system's."""
    web_tools: tuple[str, ...] = ()
    """Web tools that agents are offered, of web_fetch and web_search; none by default."""
    web_place: str = "server"
    """Who makes the calls of web tools: server, or worker for workers inside the perimeter."""
    web_allowed_domains: tuple[str, ...] = ()
    """The only domains that web tools may reach, subdomains included; all by default."""
    web_blocked_domains: tuple[str, ...] = ()
    """Domains that web tools never reach, subdomains included, whatever an agent's lists say."""
    web_networks: tuple[str, ...] = ()
    """Private networks whose pages web_fetch may read, as 10.1.0.0/16."""
    web_ports: tuple[int, ...] = (80, 443)
    """Ports at which web_fetch may read pages."""
    web_proxy: str | None = field(default=None, repr=False)
    """HTTP proxy for web_fetch and for public search engines, as http://proxy.example:3128."""
    web_ca_file: Path | None = None
    """PEM of further CAs that may sign the certificates of pages and search engines."""
    web_timeout_s: float = 20.0
    """Seconds that one web call may take."""
    search_engine: str | None = None
    """What web_search asks: searxng, brave or tavily."""
    search_url: str | None = None
    """Address of the search engine's API; needed for searxng."""
    search_key_file: Path | None = None
    """File that holds the search engine's key and nothing else."""
    limits_file: Path | None = None
    """YAML file of the organization's rate limits for groups of models; none by default."""
    monthly_cap_cents: int = 0
    """What models may cost in a calendar month at list price, in US cents, whatever spend limits
    administrators set; 0 for no cap."""
    creates_per_minute: int = 0
    """Calls per minute that create something; 0 for no limit, the official service allows 300."""
    reads_per_minute: int = 0
    """Calls per minute that read something; 0 for no limit, the official service allows 1200."""
    lenient: bool = False
    """Ignore unknown body fields, with a log line, instead of refusing them."""
