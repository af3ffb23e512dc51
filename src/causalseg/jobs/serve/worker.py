"""One thread that predicts, several requests at once where they wait and are alike."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from causalseg.errors import CausalsegError
from causalseg.jobs.serve.answers import Answer, Wanted
from causalseg.jobs.serve.served import Served

_AT_ONCE = 8  # requests
_TOGETHER = 2_000_000  # pixels of requests that are taken at once
Answering = Callable[[Served, Sequence[tuple[bytes, Wanted]]], list[Answer | CausalsegError]]


class Job(NamedTuple):
    """A request and who waits for its answer; ``left`` is called when nothing is held of it."""

    served: Served
    content: bytes
    wanted: Wanted
    pixels: int
    future: Future[Answer]
    left: Callable[[], None]


class Worker:
    """Answers jobs in their order; safe to call from any thread.

    Attributes:
        runs: what is served, in the order of the command line.
        seconds: time spent on jobs.
    """

    def __init__(self, runs: Sequence[Served], answering: Answering):
        self.runs, self.seconds, self._answering = list(runs), 0.0, answering
        self._jobs: queue.Queue[Job | None] = queue.Queue()
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

    def submit(
        self,
        served: Served,
        content: bytes,
        wanted: Wanted,
        pixels: int = 0,
        left: Callable[[], None] = lambda: None,
    ) -> Future[Answer]:
        """Put a job into the queue; one that is cancelled there is not begun."""
        future: Future[Answer] = Future()
        self._jobs.put(Job(served, content, wanted, pixels, future, left))
        return future

    def close(self) -> None:
        """Finish what was put into the queue, then stop."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        goes_on = True
        while goes_on:
            jobs, goes_on = self._take()
            start = time.perf_counter()
            while jobs:
                first = jobs[0]
                alike = [job for job in jobs if _key(job) == _key(first)]
                jobs = [job for job in jobs if _key(job) != _key(first)]
                self._answer(alike)
            self.seconds += time.perf_counter() - start

    def _take(self) -> tuple[list[Job], bool]:
        """Wait for a job; return it with those that wait behind it, and whether to go on."""
        taken: list[Job] = []
        while len(taken) < _AT_ONCE and sum(job.pixels for job in taken) < _TOGETHER:
            try:
                job = self._jobs.get(block=not taken)
            except queue.Empty:
                break
            if job is None:
                return taken, False
            if job.future.set_running_or_notify_cancel():
                taken.append(job)
            else:
                job.left()
        return taken, True

    def _answer(self, jobs: Sequence[Job]) -> None:
        try:
            answers = self._answering(jobs[0].served, [(job.content, job.wanted) for job in jobs])
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle
            if len(jobs) == 1:
                jobs[0].left()
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # so that none suffers from another
                self._answer([job])
            return
        for job, answer in zip(jobs, answers, strict=True):
            job.left()
            if isinstance(answer, CausalsegError):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)


def _key(job: Job) -> tuple[str, object]:
    return job.served.name, job.wanted.view
