"""Photos into a data set's images, one after the other in this process or in several processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch

from ..errors import StableVITONError
from ..images import read_image
from .prepare_config import PrepareConfig
from .prepare_photo import PersonNetworks, load_person_networks, write_garment, write_person

Kind = Literal["image", "cloth"]


@dataclass(frozen=True)
class Item:
    """A photo. kind: the folder of its main image, image for a person, cloth for a garment. name:
    of the images made of it, without ending."""

    kind: Kind
    photo: Path
    name: str

    @property
    def file(self) -> str:
        return f"{self.name}.png"


# items -> each of them, in any order, with the reason why it cannot be used, or None
Prepare = Callable[[Sequence[Item]], Iterator[tuple[Item, str | None]]]


@contextmanager
def start_workers(config: PrepareConfig) -> Iterator[Prepare]:
    """A function that makes the images of photos in `config.workers` processes; one worker is this
    process, which decodes the next photo meanwhile. When the block fails or is interrupted, photos
    that were begun are finished, others are not begun."""
    if config.workers == 1:
        yield partial(_prepare_here, config)
        return
    pool = ProcessPoolExecutor(
        config.workers,
        mp_context=multiprocessing.get_context("spawn"),  # OpenCV and CUDA do not survive a fork
        initializer=_start_worker,
        initargs=(config.workers,),
    )
    try:
        yield partial(_prepare_in_pool, config, pool)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _prepare_here(
    config: PrepareConfig, items: Sequence[Item]
) -> Iterator[tuple[Item, str | None]]:
    with ExitStack() as stack:
        networks = PersonNetworks()
        if any(item.kind == "image" for item in items):
            networks = stack.enter_context(load_person_networks(config))
        thread = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        following = [thread.submit(read_image, item.photo) for item in items[:1]]
        for index, item in enumerate(items):
            photo = following.pop()
            if index + 1 < len(items):
                following.append(thread.submit(read_image, items[index + 1].photo))
            yield item, _prepare(item, photo.result, config, networks)


def _prepare_in_pool(
    config: PrepareConfig, pool: ProcessPoolExecutor, items: Sequence[Item]
) -> Iterator[tuple[Item, str | None]]:
    try:
        futures = {pool.submit(_prepare_in_worker, item, config): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise StableVITONError(
            "a worker process ended by itself, perhaps for lack of memory: each holds networks of "
            "its own. Take fewer --workers; what is done is kept."
        ) from error


def _prepare(
    item: Item, read: Callable[[], np.ndarray], config: PrepareConfig, networks: PersonNetworks
) -> str | None:
    try:
        photo = read()
        if item.kind == "image":
            write_person(photo, item.name, config, networks)
        else:
            write_garment(photo, item.name, config)
    except StableVITONError as error:
        return str(error).removeprefix(f"{item.photo} ")
    return None


# In a worker process


def _start_worker(workers: int) -> None:
    """Share the cores, leave Ctrl-C to the first process, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _prepare_in_worker(item: Item, config: PrepareConfig) -> str | None:
    networks = _keep_networks(config) if item.kind == "image" else PersonNetworks()
    return _prepare(item, partial(read_image, item.photo), config, networks)


_kept = ExitStack()


@cache
def _keep_networks(config: PrepareConfig) -> PersonNetworks:
    """The networks of a configuration, loaded once in a process."""
    return _kept.enter_context(load_person_networks(config))
