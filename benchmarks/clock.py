"""CPU time of a benchmark: on a shared machine it is steadier than wall time."""

from __future__ import annotations

import psutil


def cpu() -> float:
    """CPU seconds of this process and its children, running and ended."""
    me = psutil.Process()
    own = me.cpu_times()
    living = [child.cpu_times() for child in me.children(recursive=True)]
    return float(own.user + own.system + own.children_user + own.children_system) + sum(
        t.user + t.system for t in living
    )
