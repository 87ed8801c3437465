from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from intramuros.execution.egress.limits import EgressLimits
from intramuros.execution.egress.registries import REGISTRIES
from intramuros.execution.sandbox.base import Limits
from intramuros.execution.settings import WorkerSettings
from intramuros.kernel.config import load
from intramuros.kernel.errors import OperatorError


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    key = tmp_path / "secrets" / "key"
    key.parent.mkdir()
    key.write_text("sk-ant-oat01-key\n")
    key.chmod(0o600)
    return WorkerSettings("https://control.example", key, tmp_path / "state", "env_1")


@pytest.mark.parametrize(
    "url", ["https://x.example", "http://127.0.0.1:7700", "http://localhost:1", "http://[::1]:2"]
)
def test_urls_that_keep_the_key_safe(settings: WorkerSettings, url: str) -> None:
    assert replace(settings, base_url=url).checked()


@pytest.mark.parametrize("url", ["http://x.example", "http://10.0.0.1", "http://127.0.0.1.nip.io"])
def test_the_key_is_not_sent_in_the_clear_unless_asked_for(
    settings: WorkerSettings, url: str
) -> None:
    with pytest.raises(OperatorError, match="unencrypted"):
        replace(settings, base_url=url).checked()
    assert replace(settings, base_url=url, allow_plaintext=True).checked()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"base_url": "control.example"}, "no http"),
        ({"base_url": "ftp://x"}, "no http"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 257}, "concurrency"),
        ({"max_idle_s": 0}, "max_idle_s"),
        ({"call_timeout_s": -1}, "call_timeout_s"),
        ({"keep_idle_sandboxes": -1}, "keep_idle"),
        ({"warm_min": 5, "warm_max": 4}, "warm_min 5"),
        ({"warm_min": -1}, "warm_min -1"),
        ({"warm_max": 257}, "warm_max 257"),
        ({"ssh_listen": "0.0.0.0:22"}, "ssh_listen"),
        ({"metrics_listen": "10.0.0.1:9090"}, "metrics_listen"),
        ({"metrics_listen": "unix"}, "metrics_listen"),
        ({"memory_sync_s": 4.9}, "memory_sync_s"),
        ({"wake_listen": "127.0.0.1:9"}, "belong together"),
        ({"wake_listen": "0.0.0.0:9", "wake_secret_file": Path("/x")}, "wake_listen"),
        ({"wake_poll_s": 0}, "wake_poll_s"),
        ({"ssh_trust": Path("/x")}, "nobody is let in"),
        ({"ssh_revoked_max_age_s": 9.9}, "ssh_revoked_max_age_s"),
        ({"ssh_revoked_max_age_s": float("nan")}, "ssh_revoked_max_age_s"),
        ({"memory_sync_s": float("nan")}, "memory_sync_s"),
        ({"lease_ttl_s": 0}, "lease_ttl_s"),
        ({"mounts": ("nonsense",)}, "malformed"),
        ({"mounts": ("/etc:/mnt/etc",)}, "belongs to the host"),
        ({"mounts": ("/:/mnt/all",)}, "would show"),
        ({"mounts": ("/dev/shm:/mnt/shm",)}, "belongs to the host"),
        ({"mounts": ("/proc/self:/mnt/self",)}, "belongs to the host"),
        ({"image": "oci:/x", "rootfs": Path("/srv")}, "both set"),
        ({"variables": ("novalue",)}, "malformed"),
        ({"variables": ("A B=c",)}, "malformed"),
        ({"variables": ("A=\0",)}, "malformed"),
        ({"variables": ("ANTHROPIC_API_KEY=x",)}, "not for sandboxes"),
        ({"variables": ("LD_PRELOAD=x",)}, "not for sandboxes"),
        ({"variables": ("PATH=x",)}, "not for sandboxes"),
    ],
)
def test_what_cannot_work_is_refused(
    settings: WorkerSettings, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(OperatorError, match=says):
        replace(settings, **change).checked()


def test_the_worker_s_own_state_is_never_mounted(settings: WorkerSettings) -> None:
    workspaces = settings.state_dir / "sandboxes/workspaces"
    workspaces.mkdir(parents=True)
    for place in (settings.state_dir, workspaces, settings.state_dir.parent):
        mounts = (f"{place}:/mnt/x",)
        with pytest.raises(OperatorError, match="would show"):
            replace(settings, mounts=mounts).checked()


def test_variables_keep_their_equals_signs(settings: WorkerSettings) -> None:
    spec = replace(settings, variables=("A=b=c", "_x=")).spec()
    assert spec.environment == {"A": "b=c", "_x": ""}


def test_mounts_are_read_only_unless_they_say_otherwise(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    texts = (f"{data}:/data", f"{data}:/in:ro", f"{data}:/out:rw")
    mounts = replace(settings, mounts=texts).spec().mounts
    assert [(m.source, m.target, m.read_only) for m in mounts] == [
        (data, "/data", True),
        (data, "/in", True),
        (data, "/out", False),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "environment_key_file", "proxy_credentials_file", "egress_proxy_credentials_file",
        "search_key_file", "image_auth_file", "snapshot_key_file", "wake_secret_file",
        "mcp_servers", "ssh_trust", "ssh_revoked", "outflow_policy", "audit_file",
    ],
)  # fmt: skip
def test_no_mount_may_show_what_is_the_workers(
    settings: WorkerSettings, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "file").write_text("")
    link = tmp_path / "link"
    link.symlink_to(folder)
    given: dict[str, Any] = {name: folder / "file"}
    for source in (folder / "file", folder, link):
        with pytest.raises(OperatorError, match="would show"):
            replace(settings, mounts=(f"{source}:/data",), **given).spec()
    (tmp_path / "data").mkdir()
    assert replace(settings, mounts=(f"{tmp_path / 'data'}:/data",), **given).spec().mounts


def test_the_key_is_read_without_its_newline(settings: WorkerSettings) -> None:
    assert settings.environment_key() == "sk-ant-oat01-key"


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"\xff\xfe", b"x" * 9000])
def test_a_file_without_a_key_is_refused(settings: WorkerSettings, content: bytes) -> None:
    settings.environment_key_file.write_bytes(content)
    with pytest.raises(OperatorError, match="holds no environment key"):
        settings.environment_key()


def test_a_missing_key_file_is_named(settings: WorkerSettings) -> None:
    settings.environment_key_file.unlink()
    with pytest.raises(OperatorError, match="cannot read the environment key file"):
        settings.environment_key()


def test_the_audit_file_lies_in_the_state_directory_unless_set(settings: WorkerSettings) -> None:
    assert settings.audit_path() == settings.state_dir / "audit.jsonl"
    assert replace(settings, audit_file=Path("/x")).audit_path() == Path("/x")


def test_the_limits_of_sandboxes_are_the_usual_ones_unless_set(settings: WorkerSettings) -> None:
    usual = Limits()
    assert (settings.cpus, settings.memory_bytes) == (usual.cpus, usual.memory_bytes)
    assert (settings.pids, settings.disk_bytes) == (usual.pids, usual.disk_bytes)
    assert settings.egress_limits() == EgressLimits()


def test_every_setting_can_come_from_the_environment(tmp_path: Path) -> None:
    env = {
        "ANTHROPIC_BASE_URL": "https://x",
        "ANTHROPIC_ENVIRONMENT_ID": "env_2",
        "INTRAMUROS_ENVIRONMENT_KEY_FILE": str(tmp_path / "key"),
        "INTRAMUROS_STATE_DIR": str(tmp_path),
        "INTRAMUROS_MOUNTS": "/a:/b, /c:/d:rw",
        "INTRAMUROS_ONCE": "yes",
    }
    settings = load(WorkerSettings, env=env).settings
    assert settings.environment_id == "env_2"
    assert settings.mounts == ("/a:/b", "/c:/d:rw")
    assert settings.once is True


def test_without_hosts_sandboxes_have_no_network(settings: WorkerSettings) -> None:
    assert settings.checked().egress() is None


def test_what_sandboxes_may_reach_is_read(settings: WorkerSettings) -> None:
    own = (
        replace(
            settings,
            egress_allow=("api.test", "*.wild.test", "@package-managers"),
            egress_deny=("bad.wild.test",),
            egress_ports=(8443,),
            egress_internal=("api.test",),
            egress_pass_through=("pin.wild.test",),
        )
        .checked()
        .egress()
    )
    assert own is not None
    assert own.allow.covers("a.wild.test")
    assert all(own.allow.covers(host.removeprefix("*.")) for host in REGISTRIES["pip"])
    assert own.deny.covers("bad.wild.test")
    assert own.internal.covers("api.test")
    assert own.pass_through.covers("pin.wild.test")
    assert own.ports == {8443}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"egress_allow": ("http://api.test",)}, "no host name"),
        ({"egress_allow": ("api.test",), "egress_deny": ("a b",)}, "no host name"),
        ({"egress_allow": ("api.test",), "egress_ports": (0,)}, "egress_ports"),
        ({"egress_allow": ("api.test",), "egress_ports": (53,)}, "egress_ports"),
        ({"egress_allow": ("api.test",), "egress_ports": (3128,)}, "egress_ports"),
        ({"egress_allow": ("api.test",), "egress_proxy": "socks5://p"}, "no address of a proxy"),
        ({"egress_allow": ("api.test",), "egress_proxy_resolves": True}, "no egress_proxy"),
        ({"egress_proxy": "http://p"}, "no sandbox has a network"),
        ({"egress_allow": ("api.test",), "egress_connections": 0}, "not positive"),
        ({"egress_allow": ("api.test",), "egress_connections": 129}, "at most"),
        ({"egress_allow": ("api.test",), "egress_bytes_per_s": float("nan")}, "not positive"),
        ({"egress_allow": ("api.test",), "egress_ports": (65_536,)}, "egress_ports"),
        ({"egress_allow": ("api.test",), "egress_ports": tuple(range(1000, 1063))}, "too many"),
        ({"egress_deny": ("api.test",)}, "no sandbox has a network"),
        ({"egress_ports": (8443,)}, "no sandbox has a network"),
    ],
)
def test_rules_for_the_network_that_cannot_be_are_refused(
    settings: WorkerSettings, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(OperatorError, match=says):
        replace(settings, **change).checked()


def test_what_a_sandbox_may_use_of_the_network_is_the_operators(
    settings: WorkerSettings, tmp_path: Path
) -> None:
    file = tmp_path / "proxy"
    file.write_text("worker:pw")
    plain = settings
    settings = replace(
        settings,
        egress_allow=("api.test",),
        egress_proxy="http://proxy.company:8080",
        egress_proxy_credentials_file=file,
        egress_connections=4,
        egress_requests_per_s=2.0,
        egress_bytes_per_s=1000.0,
        egress_sent_bytes=10,
        egress_received_bytes=20,
    ).checked()
    assert plain.egress_limits() == EgressLimits()
    proxy = settings.company_proxy()
    assert proxy is not None
    assert (proxy.proxy.host, proxy.proxy.port, proxy.proxy.tls) == ("proxy.company", 8080, False)
    assert not proxy.resolves
    limits = settings.egress_limits()
    assert (limits.connections, limits.rate, limits.burst) == (4, 2.0, 10)
    assert (limits.bytes_per_s, limits.bytes_burst) == (1000.0, 1000)
    assert (limits.sent_bytes, limits.received_bytes) == (10, 20)


def test_a_worker_makes_no_web_calls_unless_it_is_told_to(settings: WorkerSettings) -> None:
    assert settings.web() is None
    assert replace(settings, search_engine="tavily").web() is None


def test_web_calls_reach_what_sandboxes_do_or_hosts_of_their_own(
    settings: WorkerSettings,
) -> None:
    like = replace(settings, web_tools=("web_fetch",), egress_allow=("a.test",))
    web = like.checked().web()
    assert web is not None
    assert web.own.allow.covers("a.test")
    apart = replace(
        settings,
        web_tools=("web_fetch", "web_search"),
        web_allow=("b.test",),
        egress_ports=(8443,),
        egress_internal=("b.test",),
        search_engine="searxng",
        search_url="http://searx.internal",
    )
    web = apart.checked().web()
    assert web is not None
    assert apart.egress() is None, "sandboxes keep having no network"
    assert web.own.allow.covers("b.test")
    assert web.own.internal.covers("b.test")
    assert not web.own.allow.covers("a.test")
    assert web.terms.ports == (80, 443, 8443)
    assert web.engine is not None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"web_tools": ("web_surf",)}, "no 'web_surf'"),
        ({"web_tools": ("web_fetch",)}, "may reach no host"),
        ({"web_tools": ("web_search",)}, "needs a search engine"),
        ({"web_allow": ("a.test",)}, "without web_tools"),
        ({"web_tools": ("web_fetch",), "web_allow": ("a b",)}, "no host name"),
        ({"web_timeout_s": 0}, "web_timeout_s"),
    ],
)
def test_web_settings_that_cannot_be_meant(
    settings: WorkerSettings, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(OperatorError, match=says):
        replace(settings, **change).checked()
