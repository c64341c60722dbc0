"""A share of a stage's tasks, for schedulers that start N commands and know nothing of Beam (Slurm arrays)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from infra.errors import ConfigError


@dataclass(frozen=True)
class Share:
    """Every `of`-th task from `number` on (from 0). Shares cover all tasks, and no two have one in common."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def select(self, tasks: Sequence[str]) -> Sequence[str]:
        """The tasks of this share, of all tasks of a stage."""
        return tasks[self.number :: self.of]

    def rotate(self, tasks: Sequence[str]) -> Sequence[str]:
        """All tasks, beginning where no other share begins: who finds one done leaves it."""
        first = self.number * len(tasks) // self.of
        return [*tasks[first:], *tasks[:first]]


class ShareDone(Exception):
    """Ends a stage of which this process does a share. tasks: their number, done now or before."""

    def __init__(self, tasks: int) -> None:
        super().__init__(f"{tasks} tasks")
        self.tasks = tasks


def parse_share(text: str) -> Share:
    """Parse "i/N". Raises ConfigError unless 0 <= i < N."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text.strip())
    share = Share(int(match[1]), int(match[2])) if match else None
    if share is None or share.number >= share.of:
        raise ConfigError(f"--shard: {text!r} is not i/N with i from 0 to N − 1", hint="of 8 shares, 0/8 is the first")
    return share
