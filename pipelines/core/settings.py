"""Settings of the cascade that belong to no single annotator or filter."""

from __future__ import annotations

from pydantic import Field

from infra.config import Strict


class Measure(Strict):
    """Settings that belong to no single annotator. late: annotators that run on kept samples only, after decide.
    decode_memory: bytes that a decoder's child process may allocate; None: the machine's memory divided by its cores,
    at least 2 GiB and at most 8 GiB."""

    late: tuple[str, ...] = ()
    window_bytes: int = Field(default=256 * 2**20, gt=0)
    watchdog_s: float = Field(default=120.0, gt=0, le=2_000_000)  # poll(2) waits at most 2**31 milliseconds
    max_pixels: int = Field(default=2**26, gt=0)
    max_frames: int = Field(default=100_000, gt=0)
    max_bytes: int = Field(default=16 * 2**30, gt=0)
    max_seconds: float = Field(default=6 * 3600.0, gt=0)
    decode_memory: int | None = Field(default=None, ge=2**28, lt=2**63)  # more is no limit of setrlimit(2)

    def list_changed_limits(self) -> dict[str, float]:
        """The limits of decoding that are not the default ones: a cell that failed by them belongs to them."""
        limits = {name: getattr(self, name) for name in ("max_pixels", "max_frames", "max_seconds")}
        return {name: limit for name, limit in limits.items() if limit != type(self).model_fields[name].default}
