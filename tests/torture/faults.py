"""Does to a world what a schedule says, and puts it right again."""

import signal
import time
from contextlib import suppress
from pathlib import Path

import anyio
import psycopg

from tests.torture import link as links
from tests.torture import skewed
from tests.torture.journal import Journal
from tests.torture.programs import NeverReady
from tests.torture.schedule import Fault, Schedule
from tests.torture.world import World

BALLAST = "ballast"


class Tormentor:
    """Plays a schedule. ``journal`` notes what was done when, and what failed in doing it."""

    def __init__(self, world: World, journal: Journal) -> None:
        self._world = world
        self._journal = journal
        self._crashing = False

    async def play(self, schedule: Schedule) -> None:
        """Begin each fault at its time; returns when all are over, and the world is whole."""
        began = time.monotonic()
        async with anyio.create_task_group() as group:
            for fault in schedule.faults:
                await anyio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
                group.start_soon(self._one, fault)
            await anyio.sleep(max(0.0, began + schedule.seconds - time.monotonic()))
            group.cancel_scope.cancel()
        await self.heal()

    async def heal(self) -> None:
        """Put everything right."""
        world = self._world
        world.model.set()
        for link in world.links.values():
            link.set(links.OPEN)
        for network in world.networks.values():
            network.plug()
            network.keep()
        for disk in world.disks.values():
            (disk / BALLAST).unlink(missing_ok=True)
        if world.cluster is not None:
            await anyio.to_thread.run_sync(self._revive)
        for program in world.programs.values():
            skewed.write(program.clock, 0.0)
            program.signal(signal.SIGCONT)
            if program.down and program.alive:
                await program.stop()  # it was about to end
            if not program.alive:
                program.start()
        self._journal.write("healed")

    def _revive(self) -> None:
        cluster = self._world.cluster
        if cluster is not None and (cluster.process is None or cluster.process.poll() is not None):
            cluster.process = None
            cluster.start()

    async def _one(self, fault: Fault) -> None:
        self._journal.write("begun", fault=str(fault))
        try:
            if fault.target in self._world.programs and fault.kind in ("kill", "freeze", "restart"):
                await self._program(fault)
            elif fault.target in self._world.links:
                await self._link(fault)
            elif fault.target == "database":
                await self._database(fault)
            elif fault.target == "model":
                self._world.model.set(fault.kind, fault.size)
                await anyio.sleep(fault.for_s)
                self._world.model.set()
            else:
                await self._other(fault)
        except NeverReady as error:
            self._journal.write("failed", fault=str(fault), error=str(error))
        self._journal.write("over", fault=str(fault))

    async def _program(self, fault: Fault) -> None:
        program = self._world.programs[fault.target]
        if program.down or not program.alive:
            return  # another fault has it
        if fault.kind == "freeze":
            program.signal(signal.SIGSTOP)
            await anyio.sleep(fault.for_s)
            program.signal(signal.SIGCONT)
            return
        if fault.kind == "kill":
            await program.kill()
            await anyio.sleep(fault.for_s)
        elif not await program.stop():
            self._journal.write("unruly", program=program.name)
        program.start()

    async def _link(self, fault: Fault) -> None:
        link = self._world.links[fault.target]
        link.set(fault.kind, fault.size)
        await anyio.sleep(fault.for_s)
        link.set(links.OPEN)

    async def _database(self, fault: Fault) -> None:
        cluster = self._world.cluster
        assert cluster is not None
        if fault.kind == "disconnect":
            sql = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            with suppress(psycopg.OperationalError):  # it is down already
                await anyio.to_thread.run_sync(cluster.run, sql)
            return
        if self._crashing:
            return
        self._crashing = True
        # As if the power went: it recovers from its log when it is started again.
        assert cluster.process is not None
        cluster.process.send_signal(signal.SIGQUIT)
        await anyio.to_thread.run_sync(cluster.process.wait)
        await anyio.sleep(min(fault.for_s, 5.0))
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._revive)
        self._crashing = False

    async def _other(self, fault: Fault) -> None:
        world = self._world
        if fault.kind in ("loss", "unplug"):
            network = world.networks[fault.target]
            if fault.kind == "loss":
                network.lose(fault.size)
            else:
                network.unplug()
            await anyio.sleep(fault.for_s)
            network.keep()
            network.plug()
            return
        if fault.kind == "full":
            await anyio.to_thread.run_sync(self._fill, world.disks[fault.target])
            await anyio.sleep(fault.for_s)
            (world.disks[fault.target] / BALLAST).unlink(missing_ok=True)
        else:
            world.skewed_s = max(world.skewed_s, abs(fault.size))
            skewed.write(world.programs[fault.target].clock, fault.size)
            await anyio.sleep(fault.for_s)
            skewed.write(world.programs[fault.target].clock, 0.0)

    def _fill(self, disk: Path) -> None:
        """Fill a disk to the last byte."""
        with (disk / BALLAST).open("ab", buffering=0) as ballast:
            size = 1 << 20
            while size:
                try:
                    ballast.write(bytes(size))
                except OSError:
                    size //= 2
