"""One thread that predicts, a bounded queue before it, and what it counts."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

from causalseg.build.loaded import LoadedModel
from causalseg.errors import CausalsegError

T = TypeVar("T")


class QueueFullError(CausalsegError):
    """More requests wait than are allowed."""


class Named(NamedTuple):
    """A model and what it is called."""

    name: str
    model: LoadedModel


class Worker:
    """Runs one job after the other on the models; safe to call from any thread.

    Attributes:
        models: the models, in the order of the command line.
        seconds: time spent on jobs.
    """

    def __init__(self, models: Sequence[Named], most: int):
        self.models, self.seconds = list(models), 0.0
        self._jobs: queue.Queue[tuple[Future[Any], Callable[[], Any]] | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of jobs that wait."""
        return self._jobs.qsize()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive()

    def check_room(self) -> None:
        """Raise QueueFullError if the queue is full."""
        if self._jobs.full():
            raise self._full()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Put a job into the queue or raise QueueFullError; a cancelled job is not begun."""
        future: Future[T] = Future()
        try:
            self._jobs.put_nowait((future, job))
        except queue.Full:
            raise self._full() from None
        return future

    def close(self) -> None:
        """Finish what was put into the queue, then stop."""
        self._jobs.put(None)
        self._thread.join()

    def _full(self) -> QueueFullError:
        return QueueFullError(f"{self._jobs.maxsize} requests wait already: try again later")

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            if not future.set_running_or_notify_cancel():
                continue
            start = time.perf_counter()
            try:
                future.set_result(job())
            except Exception as error:  # noqa: BLE001 - it is the caller's to handle
                future.set_exception(error)
            self.seconds += time.perf_counter() - start
