"""The command `tryon`: makes results of a data set or of a photo, and says how to go on."""

import logging
from collections.abc import Sequence

from ..dataset.pairs import Pair
from ..errors import StableVITONError
from ..interruption import INTERRUPTED, raise_interrupt_on_sigterm
from .check_run import check_run, record_settings, result_file
from .config import TryOnConfig
from .devices import find_part
from .dress_dataset import dress_dataset
from .photo import dress_photo

_log = logging.getLogger(__name__)


def run(config: TryOnConfig) -> int:
    """The exit code: 0 where all results are there, 1 where one is missing, 130 after Ctrl-C or
    SIGTERM. StableVITONError lists what is wrong, before a model is loaded."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    raise_interrupt_on_sigterm()
    pairs = check_run(config)
    try:
        if config.data is not None:
            return _dress_pairs(config, pairs)
        dress_photo(config)
    except KeyboardInterrupt:
        made = "" if config.data is None else f" What is done is in {config.result_folder}."
        _log.warning("Stopped.%s Run the same command again to go on.", made)
        return INTERRUPTED
    except OSError as error:
        raise StableVITONError(
            f"a file cannot be read or written ({error}). What is done is kept: run the same "
            "command again."
        ) from error
    _log.info("wrote %s", config.output)
    return 0


def _dress_pairs(config: TryOnConfig, pairs: Sequence[Pair]) -> int:
    part = find_part(config)
    record_settings(config)
    own = pairs[part.index :: part.count]
    _log.info("part %d of %d: %d of %d pairs", part.index + 1, part.count, len(own), len(pairs))
    if config.on_ray:
        from .ray_tasks import dress_on_ray

        failures = dress_on_ray(config, pairs, part)
    else:
        failures = dress_dataset(config, pairs, part, show_progress=part.index == 0)
    for name, reason in failures.items():
        _log.error("Failed: %s: %s", name, reason)
    done = sum(result_file(pair, config).is_file() for pair in own)
    _log.info("%d of %d results in %s", done, len(own), config.result_folder)
    return 0 if done == len(own) else 1
