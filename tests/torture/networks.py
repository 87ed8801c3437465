"""Networks of their own for programs, and small disks: what only root can make."""

import os
import subprocess
from dataclasses import dataclass


def run(*command: str) -> bool:
    """Run a system command; False if it is not there, or refused."""
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(frozen=True)
class Network:
    """A namespace whose one way out is a cable to the host."""

    name: str
    host: str

    @property
    def inside(self) -> list[str]:
        """What a command is started by to be in it."""
        return ["ip", "netns", "exec", self.name]

    def unplug(self) -> None:
        """Pull the cable: nothing is refused, and nothing arrives."""
        run(*self.inside, "ip", "link", "set", "up0", "down")

    def plug(self) -> None:
        run(*self.inside, "ip", "link", "set", "up0", "up")

    def lose(self, probability: float) -> None:
        """Drop packets that arrive, by chance."""
        chance = ["--mode", "random", "--probability", str(probability)]
        run(*self.inside, "iptables", "-A", "INPUT", "-m", "statistic", *chance, "-j", "DROP")

    def keep(self) -> None:
        """Drop nothing any more."""
        run(*self.inside, "iptables", "-F", "INPUT")

    def close(self) -> None:
        run("ip", "netns", "del", self.name)
        run("ip", "link", "del", _cable(self.name))


def closed_network(label: str) -> Network | None:
    """Make a network, or None where that is not allowed."""
    number = int(label.rpartition(".")[2])
    name = f"torture-{os.getpid()}-{number}"
    third = os.getpid() % 200 + 20
    host, guest = f"10.213.{third}.{4 * number + 1}", f"10.213.{third}.{4 * number + 2}"
    cable = _cable(name)
    made = (
        run("ip", "netns", "add", name)
        and run("ip", "link", "add", cable, "type", "veth", "peer", "name", "up0", "netns", name)
        and run("ip", "addr", "add", f"{host}/30", "dev", cable)
        and run("ip", "link", "set", cable, "up")
        and run("ip", "netns", "exec", name, "ip", "addr", "add", f"{guest}/30", "dev", "up0")
        and run("ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
        and run("ip", "netns", "exec", name, "ip", "link", "set", "up0", "up")
    )
    network = Network(name, host)
    if not made:
        network.close()
        return None
    return network


def _cable(name: str) -> str:
    """The name of the host's end: the kernel allows fifteen characters."""
    return name.replace("torture-", "tt")[:15]
