"""Try-ons of a data set on a Ray cluster: one task per GPU, or one in all where there is no GPU,
each a part of the pairs. Ray starts a task that died again; it goes on from the files."""

import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..dataset.pairs import Pair
from ..errors import StableVITONError
from .check_run import result_file
from .config import TryOnConfig
from .devices import Part

RETRIES = 3  # of a task whose process died
POLL_SECONDS = 1.0


def dress_on_ray(config: TryOnConfig, pairs: Sequence[Pair], part: Part) -> dict[str, str]:
    """As `dress_dataset`. Data, checkpoint and output must lie on a disk that all machines share.
    StableVITONError where Ray is not reached or a task fails."""
    import ray

    address = config.ray if isinstance(config.ray, str) else None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise StableVITONError(f"no Ray cluster at {address!r}: {error}") from error
    signal.signal(signal.SIGTERM, handler)  # ray.init replaces it
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        task = ray.remote(
            num_gpus=1 if gpus else 0, num_cpus=0 if gpus else 1, max_retries=RETRIES
        )(dress_part)
        count = max(1, gpus)
        settings = _resolve_paths(config)
        parts = [Part(part.index * count + index, part.count * count) for index in range(count)]
        running = [task.remote(settings, each) for each in parts]
        files = [result_file(pair, config) for pair in pairs[part.index :: part.count]]
        failures: dict[str, str] = {}
        with tqdm(total=len(files), unit="image", initial=_count(files), mininterval=1) as bar:
            while running:
                ended, running = ray.wait(running, timeout=POLL_SECONDS)
                bar.update(_count(files) - bar.n)
                for reference in ended:
                    failures |= ray.get(reference)
        return failures
    except ray.exceptions.RayError as error:
        raise StableVITONError(f"Ray: {getattr(error, 'cause', None) or error}") from error
    finally:
        ray.shutdown()


def dress_part(config: TryOnConfig, part: Part) -> dict[str, str]:
    """A task: its part of the pairs."""
    # Ray sets it to the task's CPUs; another number of threads changes the rounding
    os.environ.pop("OMP_NUM_THREADS", None)
    from .check_run import check_run
    from .dress_dataset import dress_dataset

    return dress_dataset(config, check_run(config), part, show_progress=False)


def _resolve_paths(config: TryOnConfig) -> TryOnConfig:
    """The settings of a task, whose working directory is another."""
    paths = {
        name: getattr(config, name).resolve()
        for name in ("data", "checkpoint", "vae", "output")
        if getattr(config, name) is not None
    }
    return replace(config, ray=False, shard="1/1", **paths)


def _count(files: Sequence[Path]) -> int:
    return sum(file.is_file() for file in files)
