"""The one way to open media: untrusted bytes are decoded in a child process, never in this one.

A crash or a hang in a codec costs one sample and a new child. One pass over a medium serves every annotator.
"""

from __future__ import annotations

import mmap
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from types import TracebackType

import numpy as np

from infra.errors import StageError
from infra.media.decoder_child import ArenaFrames, DecodeReply, DecodeRequest
from infra.media.interface import DecodedMedia, FramePlan, Frames, MediaRef, StreamObserver
from infra.media.pixels import Limits as Limits

_START_S = 120.0  # for a child to import its libraries on a very busy machine


class Decoder:
    """Opens media in a child process, which starts with the first medium and is replaced after a crash or a hang.

    Not thread-safe. Errors of a medium are in DecodedMedia.error, "kind: detail", with kind one of
        unreadable  the bytes cannot be read           empty      there are no bytes
        truncated   fewer bytes or frames than its container declares
        no_video    no video stream                    no_frames  none decoded, or none in the span
        too_large   beyond one of `limits`             decode     a library refuses it, or frames are damaged
        memory      the child ran out of memory        crash      the child died, by which signal
        watchdog    no answer in time: the one error that another run may not repeat
    Mistakes in our own code, an observer's included, raise StageError with the child's traceback.

    Videos are decoded by one thread and turned by their display matrix; pixels are taken as square. A frame that the
    codec could only conceal fails the medium. Images: see infra.media.image.

    probes, decodes: number of requests. decode_seconds: time spent in `probe` and `decode`; child_seconds: the
    child's share of it.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.probes = 0
        self.decodes = 0
        self.decode_seconds = 0.0
        self.child_seconds = 0.0
        self._child: _Child | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child. The decoder may be used again; a new child then starts."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def probe(self, ref: MediaRef) -> DecodedMedia:
        """Read the header only. Of a video the packets are read, to count frames and seconds, and the first frame is
        decoded, the only source of the orientation; of an image nothing is decoded."""
        self.probes += 1
        return self._ask(DecodeRequest(ref, True, {}, {}, self.limits))

    def decode(
        self, ref: MediaRef, plans: Mapping[str, FramePlan], observers: Mapping[str, StreamObserver]
    ) -> DecodedMedia:
        """One pass: header, the frames of each plan, the result of each observer (videos only), by annotator.

        A plan gets for each of its times the nearest frame of the span, and no frame twice, so that a video shorter
        than the plan gives fewer. Observers must be importable by name in the child; what they print is lost.
        """
        self.decodes += 1
        return self._ask(DecodeRequest(ref, False, dict(plans), dict(observers), self.limits))

    def _ask(self, request: DecodeRequest) -> DecodedMedia:
        payload = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        if self._child is None:
            self._child = _Child(self.limits)
        started = time.perf_counter()
        try:
            answer = self._child.ask(payload, self.limits.watchdog_s)
            if isinstance(answer, str):
                self.close()
                return DecodedMedia(error=answer)
            self.child_seconds += answer.seconds
            if answer.bug is not None:
                last = answer.bug.strip().splitlines()[-1]
                raise StageError(
                    f"the decoder's child process failed by a bug in our code: {last}",
                    where=request.ref.uri,
                    hint=answer.bug,
                )
            if answer.error is not None:
                return DecodedMedia(error=answer.error)
            frames = self._child.frames(answer)
            return DecodedMedia(header=answer.header, frames=frames, streams=answer.streams)
        finally:
            self.decode_seconds += time.perf_counter() - started


class _Child:
    """The running child, its pipes and the arena that returns its pixels."""

    def __init__(self, limits: Limits) -> None:
        self._arena = _open_unnamed_file()
        self._map: mmap.mmap | None = None
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100  (the child imports what this process can)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "infra.media.decoder_child", str(self._arena), str(limits.address_space)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._arena],
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
        )
        ready = self._receive(time.monotonic() + _START_S)
        if isinstance(ready, str):
            self.stop()
            raise StageError(f"the decoder's child process did not start ({ready})", hint="run `reelmill doctor`")

    def ask(self, payload: bytes, timeout_s: float) -> DecodeReply | str:
        """The reply, or an error, after which the child must be replaced."""
        deadline = time.monotonic() + timeout_s
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(payload).to_bytes(8, "little") + payload)
        except BrokenPipeError:
            return self._describe_death()
        answer = self._receive(deadline)
        return answer if answer != "" else f"watchdog: no answer within {timeout_s:g} s"

    def frames(self, reply: DecodeReply) -> dict[str, Frames]:
        """Copies of the arena's pixels, so that the next request may overwrite it."""
        if reply.used > 0 and (self._map is None or len(self._map) < reply.used):
            self._map = mmap.mmap(self._arena, os.fstat(self._arena).st_size)
        return {name: self._copy_frames(arena_frames) for name, arena_frames in reply.frames.items()}

    def _copy_frames(self, arena_frames: ArenaFrames) -> Frames:
        height, width = arena_frames.height, arena_frames.width
        pixels = np.empty((len(arena_frames.offsets), height, width, 3), dtype=np.uint8)
        for row, offset in zip(pixels, arena_frames.offsets, strict=True):
            assert self._map is not None
            row.reshape(-1)[:] = np.frombuffer(self._map, np.uint8, height * width * 3, offset)
        return Frames(pixels, np.asarray(arena_frames.times, dtype=np.float64))

    def stop(self) -> None:
        """Kill the child: it has no state that could be lost."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._map = None
        if self._arena >= 0:
            os.close(self._arena)
            self._arena = -1

    def _receive(self, deadline: float) -> DecodeReply | str:
        """A reply; or "" when the deadline passed, or how the child died."""
        buffer = bytearray()
        expected = 8  # the length first, then so many bytes
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while len(buffer) < expected:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0 or not poll.poll(remaining_s * 1000):
                return ""
            block = os.read(fd, 1 << 20)
            if not block:
                return self._describe_death()
            buffer += block
            if expected == 8 and len(buffer) >= 8:
                expected = 8 + int.from_bytes(buffer[:8], "little")
        reply: DecodeReply = pickle.loads(memoryview(buffer)[8:])  # noqa: S301  (from our own child)
        return reply

    def _describe_death(self) -> str:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "crash: it closed its pipe"
        if code == -signal.SIGALRM:
            return ""
        return f"crash: signal {-code}" if code < 0 else f"crash: exit {code}"


def _open_unnamed_file() -> int:
    """A file without a name, in memory where the system supports it: nothing to clean up, no limit of /dev/shm."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("reelmill-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
