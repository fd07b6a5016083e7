"""When a batch retries a job, gives it up, or drops a worker (a ComfyUI server or a Ray actor).

No input or output happens here: `server_pool` and `ray_cluster` take jobs from one `JobQueue`,
report how they ended and follow its decisions.

- The graph failed on a worker: the job goes to a worker that has not run it yet, and is given up
  when there is none.
- The worker failed: the job goes to a worker that has not failed with it yet, or where there is
  none, to any, up to MAX_ATTEMPTS times.
- An input image cannot be read: the job is given up at once.
- A worker is dropped after MAX_WORKER_FAILURES in a row, a server also when it answers none of
  its health checks. Without any worker left, the waiting jobs are left for the next run.
"""

import logging
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...errors import ImageError, PromptError, PromptInterrupted
from .jobs import Job

_log = logging.getLogger(__name__)

PROMPTS_PER_WORKER = 2  # at a time: one runs, one waits
MAX_ATTEMPTS = 5  # per job, over all workers
MAX_WORKER_FAILURES = 5  # per worker, in a row
HEALTH_CHECKS = 7  # of a server that failed, until it answers: two minutes in all
BACKOFF = 1.0  # seconds until the first health check, doubled with each
RAY_RETRIES = 3  # of a call whose actor died, by Ray itself, within one attempt


def is_worker_failure(error: Exception) -> bool:
    """Whether the worker is at fault, and neither the graph nor an input image."""
    return isinstance(error, PromptInterrupted) or not isinstance(error, PromptError | ImageError)


def list_health_check_delays() -> list[float]:
    """Seconds to wait before each health check of a server that failed."""
    return [BACKOFF * 2**index for index in range(HEALTH_CHECKS)]


@dataclass
class Attempt:
    """A job being run. failed_on: workers on which its graph failed. failed_with: workers that
    failed while they ran it. error: the latest."""

    job: Job
    count: int = 0
    failed_on: set[str] = field(default_factory=set)
    failed_with: set[str] = field(default_factory=set)
    error: str = ""


class JobQueue:
    """The jobs still to be run and the names of the workers that run them."""

    def __init__(self, jobs: Iterable[Job], workers: Iterable[str]):
        self.waiting = deque(Attempt(job) for job in jobs)
        self.workers = set(workers)
        self.failures = Counter[str]()  # in a row, by worker
        self.running = 0

    def take(self, worker: str) -> Attempt | None:
        """The next job for a worker; None where none waits for it, or it was dropped."""
        if worker not in self.workers:
            return None
        for attempt in self.waiting:
            if self._may_run(worker, attempt):
                self.waiting.remove(attempt)
                attempt.count += 1
                self.running += 1
                return attempt
        return None

    def is_over(self, worker: str) -> bool:
        """Whether the worker will get no further job."""
        return worker not in self.workers or not (self.running or self.waiting)

    def record_success(self, worker: str) -> None:
        self.running -= 1
        self.failures[worker] = 0

    def record_failure(self, worker: str, attempt: Attempt, error: Exception) -> bool:
        """Whether the job is retried; otherwise it is given up, for `attempt.error`."""
        self.running -= 1
        attempt.error = str(error) or type(error).__name__
        if isinstance(error, ImageError):
            return False
        if is_worker_failure(error):
            self.failures[worker] += 1
            attempt.failed_with.add(worker)
        else:
            self.failures[worker] = 0
            attempt.failed_on.add(worker)
        retried = attempt.count < MAX_ATTEMPTS and not self._has_failed_everywhere(attempt)
        if retried:
            self.waiting.append(attempt)
        return retried

    def has_failed_too_often(self, worker: str) -> bool:
        """Whether the worker is to be dropped."""
        return self.failures[worker] >= MAX_WORKER_FAILURES

    def drop_worker(self, worker: str, error: Exception) -> list[Attempt]:
        """Give a worker no more jobs. Returns the jobs that are given up with it, because their
        graph failed on all workers that are left."""
        if worker not in self.workers:
            return []
        _log.warning("%s gets no more jobs: %s", worker, error)
        self.workers.discard(worker)
        given_up = [attempt for attempt in self.waiting if self._has_failed_everywhere(attempt)]
        for attempt in given_up:
            self.waiting.remove(attempt)
        return given_up

    def _may_run(self, worker: str, attempt: Attempt) -> bool:
        """Whether a worker is one for a job: its graph has not failed there, and no other worker
        is left that is more likely to run it."""
        if worker in attempt.failed_on:
            return False
        untried = self.workers - attempt.failed_on - attempt.failed_with
        return worker not in attempt.failed_with or not untried

    def _has_failed_everywhere(self, attempt: Attempt) -> bool:
        return bool(attempt.failed_on) and not self.workers - attempt.failed_on
