"""What becomes of jobs and workers after failures."""

from pathlib import Path

import pytest

from stableviton_core.errors import ImageError, PromptError, PromptInterrupted, ServerError
from stableviton_core.serving.batch.jobs import Job
from stableviton_core.serving.batch.retry_policy import MAX_ATTEMPTS, MAX_WORKER_FAILURES, JobQueue


def make_queue(jobs: int, workers: str) -> JobQueue:
    images = {"person": Path("p.png"), "garment": Path("g.png")}
    return JobQueue([Job(str(index), images, 0) for index in range(jobs)], workers)


def test_a_job_whose_graph_failed_goes_to_the_other_workers_once():
    queue = make_queue(1, "ab")
    attempt = queue.take("a")
    assert queue.record_failure("a", attempt, PromptError("no"))
    assert queue.take("a") is None and not queue.is_over("a")
    assert queue.take("b") is attempt
    assert not queue.record_failure("b", attempt, PromptError("again no"))
    assert attempt.error == "again no" and queue.is_over("a") and queue.is_over("b")


@pytest.mark.parametrize("error", [ServerError("down"), PromptInterrupted("cancelled")])
def test_a_job_whose_worker_failed_is_retried_anywhere_but_not_for_ever(error):
    queue = make_queue(1, "a")
    for _ in range(MAX_ATTEMPTS - 1):
        assert queue.record_failure("a", queue.take("a"), error)
    assert not queue.has_failed_too_often("a")
    assert not queue.record_failure("a", queue.take("a"), error)
    assert queue.has_failed_too_often("a")


def test_a_job_with_an_unreadable_image_is_given_up_and_costs_the_worker_nothing():
    queue = make_queue(1, "ab")
    assert not queue.record_failure("a", queue.take("a"), ImageError("no image"))
    assert queue.failures["a"] == 0 and queue.is_over("b")


@pytest.mark.parametrize("ends", ["success", "graph failure"])
def test_only_failures_in_a_row_count_against_a_worker(ends):
    queue = make_queue(20, "ab")
    for _ in range(MAX_WORKER_FAILURES - 1):
        queue.record_failure("a", queue.take("a"), ServerError("down"))
    if ends == "success":
        queue.take("a")
        queue.record_success("a")
    else:
        queue.record_failure("a", queue.take("a"), PromptError("no"))
    queue.record_failure("a", queue.take("a"), ServerError("down"))
    assert not queue.has_failed_too_often("a")


def test_a_dropped_worker_leaves_its_jobs_to_the_others_or_to_the_next_run():
    queue = make_queue(3, "ab")
    failed = queue.take("a")
    queue.record_failure("a", failed, PromptError("no"))
    assert queue.drop_worker("b", ServerError("down")) == [failed]
    assert queue.drop_worker("b", ServerError("down")) == []
    assert queue.take("b") is None and queue.is_over("b")
    assert queue.drop_worker("a", ServerError("down")) == []
    assert len(queue.waiting) == 2 and queue.is_over("a")
