"""The one way to open media: untrusted bytes are decoded in a child process, never in this one.

A crash or a hang in a codec costs one sample and a new child. One pass over a medium serves every annotator.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from infra.errors import StageError
from infra.media.interface import DecodedMedia, FramePlan, MediaRef, StreamObserver
from infra.media.messages import (
    MAX_REPLY_BYTES,
    DecodeReply,
    DecodeRequest,
    MalformedReply,
    copy_frames,
    decode_reply,
)
from infra.media.pixels import Limits as Limits

#: Signals by which a process dies of its own code; every other one came from outside, from the out-of-memory killer for
#: example. Not SIGBUS: mapped memory that the system cannot provide.
_CODEC_SIGNALS = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS}
)

_START_S = 120.0  # for a child to import its libraries on a very busy machine


class Decoder:
    """Opens media in a child process, which starts with the first medium and is replaced after a crash or a hang.

    For one thread at a time (StageError for two at once): threads of a process borrow decoders from a pool, and a
    reply that does not carry the number of its request raises StageError. Errors of a medium are in
    DecodedMedia.error, "kind: detail", with kind one of
        empty       there are no bytes                 truncated  fewer bytes or frames than its container declares
        no_video    no video stream                    no_frames  none decoded, or none in the span
        too_large   beyond one of `limits`             decode     a library refuses it, or frames are damaged
        crash       the child died, by which signal, or sent nonsense
    or one of the environment, which another run may not repeat:
        unreadable  the bytes cannot be read           changed    the bytes are not those of `MediaRef.sha256`
        memory      more than `limits.memory`          killed     the system or a person ended the child
        watchdog    no answer in time
    What runs out of memory, crashes or is killed is decoded again in a new child, unless the child was new: what an
    earlier medium left behind is no fault of this one. Mistakes in our own code, an observer's included, raise
    StageError with the child's traceback.

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
        self._number = 0
        self._in_use = threading.Lock()

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
        return self._ask(ref, True, {}, {})

    def decode(
        self, ref: MediaRef, plans: Mapping[str, FramePlan], observers: Mapping[str, StreamObserver]
    ) -> DecodedMedia:
        """One pass: header, the frames of each plan, the result of each observer (videos only), by annotator.

        A plan gets for each of its times the nearest frame of the span, and no frame twice, so that a video shorter
        than the plan gives fewer. Observers must be importable by name in the child and return plain values. What they
        print is lost.
        """
        self.decodes += 1
        return self._ask(ref, False, plans, observers)

    def _ask(
        self, ref: MediaRef, probe: bool, plans: Mapping[str, FramePlan], observers: Mapping[str, StreamObserver]
    ) -> DecodedMedia:
        if not self._in_use.acquire(blocking=False):
            raise StageError("two threads use one decoder at the same time, which is a bug", where=ref.uri)
        started = time.perf_counter()
        try:
            self._number += 1
            request = DecodeRequest(self._number, ref, probe, dict(plans), dict(observers), self.limits)
            is_new = self._child is None
            media = self._exchange(request)
            if not is_new and media.error is not None and media.error.startswith(("memory", "crash", "killed")):
                media = self._exchange(request)
            return media
        except BaseException:  # whatever was interrupted, a reply may be on its way that the next request must not get
            self.close()
            raise
        finally:
            self.decode_seconds += time.perf_counter() - started
            self._in_use.release()

    def _exchange(self, request: DecodeRequest) -> DecodedMedia:
        if self._child is None:
            self._child = _Child(self.limits)
        try:
            reply = self._child.ask(request)
            self.child_seconds += reply.seconds
            _check_reply(reply, request)
            media = DecodedMedia(error=reply.error)
            if reply.error is None:
                frames = copy_frames(self._child.arena, reply, request)
                media = DecodedMedia(header=reply.header, frames=frames, streams=reply.streams)
        except _NoReply as error:
            media = DecodedMedia(error=str(error))
            self.close()
        except MalformedReply as error:
            media = DecodedMedia(error=f"crash: it sent no valid reply ({error})")
            self.close()
        if media.error is not None and media.error.startswith("memory"):
            self.close()  # what is still allocated would be missing to the next
        return media


def _check_reply(reply: DecodeReply, request: DecodeRequest) -> None:
    """Raises StageError for a bug in the child, and for the reply to another request."""
    if reply.bug is not None:
        raise StageError(
            f"the decoder's child process failed by a bug in our code: {reply.bug.strip().splitlines()[-1]}",
            where=request.ref.uri,
            hint=reply.bug,
        )
    if reply.number != request.number:
        raise StageError(
            f"the decoder's child process answered request {reply.number}, not {request.number}, which is a bug",
            where=request.ref.uri,
            hint="report it; nothing of this medium was stored",
        )


class _NoReply(Exception):
    """The error of a medium for which the child sent nothing: watchdog or crash. The child must be replaced."""


class _Child:
    """The running child, its pipes and the arena that returns its pixels."""

    def __init__(self, limits: Limits) -> None:
        self.arena = _open_unnamed_file()
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100  (the child imports what this process can)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "infra.media.decoder_child", str(self.arena), str(limits.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self.arena],
            bufsize=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))},
        )
        try:
            self._receive(time.monotonic() + _START_S)
        except (_NoReply, MalformedReply) as error:
            self.stop()
            hint = "run `reelmill doctor`"
            raise StageError(f"the decoder's child process did not start ({error})", hint=hint) from None

    def ask(self, request: DecodeRequest) -> DecodeReply:
        """The next reply. Raises _NoReply, MalformedReply."""
        payload = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        timeout_s = request.limits.watchdog_s
        deadline = time.monotonic() + timeout_s
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(len(payload).to_bytes(8, "little") + payload)
        except BrokenPipeError:
            raise self._describe_death(timeout_s) from None
        return self._receive(deadline, timeout_s)

    def stop(self) -> None:
        """Kill the child: it has no state that could be lost."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        if self.arena >= 0:
            os.close(self.arena)
            self.arena = -1

    def _receive(self, deadline: float, timeout_s: float = _START_S) -> DecodeReply:
        buffer = bytearray()
        expected = 8  # the length first, then so many bytes
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while len(buffer) < expected:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0 or not poll.poll(remaining_s * 1000):
                raise _overdue(timeout_s)
            block = os.read(fd, min(1 << 20, expected - len(buffer)))
            if not block:
                raise self._describe_death(timeout_s)
            buffer += block
            if expected == 8 and len(buffer) == 8:
                expected += int.from_bytes(buffer, "little")
                if expected > MAX_REPLY_BYTES:
                    raise MalformedReply(f"{expected} bytes, limit {MAX_REPLY_BYTES}")
        return decode_reply(buffer[8:])

    def _describe_death(self, timeout_s: float) -> _NoReply:
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return _NoReply("crash: it closed its pipe")
        if code == -signal.SIGALRM:
            return _overdue(timeout_s)
        if code >= 0:
            return _NoReply(f"crash: exit {code}")
        return _NoReply(f"{'crash' if -code in _CODEC_SIGNALS else 'killed'}: signal {-code}")


def _overdue(timeout_s: float) -> _NoReply:
    return _NoReply(f"watchdog: no answer within {timeout_s:g} s")


def _open_unnamed_file() -> int:
    """A file without a name, in memory where the system supports it: nothing to clean up, no limit of /dev/shm."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("reelmill-frames")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
