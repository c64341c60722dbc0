"""What a benchmark costs: CPU rather than seconds, for machines that are shared."""

from __future__ import annotations

import psutil


def cpu() -> float:
    """CPU seconds of this process and its children, living and dead."""
    me = psutil.Process()
    own = me.cpu_times()
    living = [child.cpu_times() for child in me.children(recursive=True)]
    return float(own.user + own.system + own.children_user + own.children_system) + sum(
        t.user + t.system for t in living
    )
