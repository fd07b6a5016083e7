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


class Pool:
    """Hands jobs to servers, and takes back what did not work.

    A job whose graph failed goes to a server that has not had it yet. A job whose server failed
    goes to any. Ends when nothing waits and nothing runs, or when the last server has left.
    """

    def __init__(self, jobs: Iterable[Job], servers: Iterable[str]):
        self.waiting = deque(Attempt(job) for job in jobs)
        self.servers = set(servers)
        self.running = 0
        self._changed = asyncio.Condition()

    async def take(self, server: str) -> Attempt | None:
        """The next job for a server; None when there will be none."""
        async with self._changed:
            while True:
                for attempt in self.waiting:
                    if server not in attempt.failed_on:
                        self.waiting.remove(attempt)
                        self.running += 1
                        attempt.count += 1
                        return attempt
                if not self.running and not self.waiting:
                    return None
                if server not in self.servers:
                    return None
                await self._changed.wait()

    async def finished(self) -> None:
        """A job that was taken has its end, good or bad."""
        async with self._changed:
            self.running -= 1
            self._changed.notify_all()

    async def put_back(self, attempt: Attempt) -> bool:
        """Whether another server, or another attempt, is left for it. If not, it has its end."""
        async with self._changed:
            self.running -= 1
            left = attempt.count < MOST_ATTEMPTS and bool(self.servers - attempt.failed_on)
            if left:
                self.waiting.append(attempt)
            self._changed.notify_all()
            return left

    async def leave(self, server: str) -> list[Attempt]:
        """A server is given up. Returns the jobs for which no server is left but those on which
        they failed; without any server, all wait for another run."""
        async with self._changed:
            self.servers.discard(server)
            lost = [a for a in self.waiting if a.failed_on and not self.servers - a.failed_on]
            for attempt in lost:
                self.waiting.remove(attempt)
            self._changed.notify_all()
            return lost
