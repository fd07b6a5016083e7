"""The jobs that are still to do, shared by the workers of several servers."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from .jobs import Job

MOST_ATTEMPTS = 5  # of a job, over all servers


@dataclass
class Attempt:
    """A job on its way. failed_on: servers on which the graph itself failed."""

    job: Job
    count: int = 0
    failed_on: set[str] = field(default_factory=set)
    error: str = ""


class Queue:
    """Jobs, and the servers that they wait for.

    A job whose graph failed goes to a server that has not had it yet. A job whose server failed
    goes to any.
    """

    def __init__(self, jobs: Iterable[Job], servers: Iterable[str]):
        self.waiting = deque(Attempt(job) for job in jobs)
        self.servers = set(servers)

    def next(self, server: str) -> Attempt | None:
        """The next job for a server; None where none waits for it, or it is given up."""
        if server not in self.servers:
            return None
        for attempt in self.waiting:
            if server not in attempt.failed_on:
                self.waiting.remove(attempt)
                attempt.count += 1
                return attempt
        return None

    def put_back(self, attempt: Attempt) -> bool:
        """Whether another attempt, and a server that has not failed on it, is left for it. If not,
        it has its end. Without any server it waits for another run."""
        left = attempt.count < MOST_ATTEMPTS and not self._failed_everywhere(attempt)
        if left:
            self.waiting.append(attempt)
        return left

    def leave(self, server: str) -> list[Attempt]:
        """A server is given up. Returns the jobs for which no server is left but those on which
        they failed; without any server, the others wait for another run."""
        self.servers.discard(server)
        lost = [attempt for attempt in self.waiting if self._failed_everywhere(attempt)]
        for attempt in lost:
            self.waiting.remove(attempt)
        return lost

    def _failed_everywhere(self, attempt: Attempt) -> bool:
        return bool(attempt.failed_on) and not self.servers - attempt.failed_on


class Pool:
    """A queue at which workers wait: what one puts back may be for another. Ends when nothing waits
    and nothing runs, or when the last server has left."""

    def __init__(self, queue: Queue):
        self.queue = queue
        self.running = 0
        self._changed = asyncio.Condition()

    async def take(self, server: str) -> Attempt | None:
        """The next job for a server; None when there will be none."""
        async with self._changed:
            while True:
                if attempt := self.queue.next(server):
                    self.running += 1
                    return attempt
                over = not self.running and not self.queue.waiting
                if over or server not in self.queue.servers:
                    return None
                await self._changed.wait()

    async def finished(self) -> None:
        """A job that was taken has its end, good or bad."""
        async with self._changed:
            self.running -= 1
            self._changed.notify_all()

    async def put_back(self, attempt: Attempt) -> bool:
        """As `Queue.put_back`, for a job that was taken."""
        async with self._changed:
            self.running -= 1
            self._changed.notify_all()
            return self.queue.put_back(attempt)

    async def leave(self, server: str) -> list[Attempt]:
        """As `Queue.leave`."""
        async with self._changed:
            self._changed.notify_all()
            return self.queue.leave(server)
