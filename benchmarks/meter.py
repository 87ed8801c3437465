"""Figures of a process and of samples."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
MIB: Final = 1024 * 1024


@dataclass(frozen=True)
class Spent:
    """CPU seconds of a process so far, and its resident memory."""

    cpu_s: float
    rss_bytes: int


def spent(pid: int) -> Spent:
    """Read a process's figures from /proc."""
    proc = Path("/proc", str(pid))
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    pages = int((proc / "statm").read_text().split()[1])
    return Spent((int(fields[11]) + int(fields[12])) * _TICK_S, pages * _PAGE_BYTES)


def summary_ms(samples_ns: Sequence[int]) -> dict[str, float]:
    """Return the median, the tail and the mean in milliseconds."""
    ordered = sorted(sample / 1e6 for sample in samples_ns)
    return {
        "p50": round(statistics.median(ordered), 2),
        "p95": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))], 2),
        "mean": round(statistics.fmean(ordered), 2),
    }
