"""The data of a run: its pairs, its data set of cached latents or of images, and its batches."""

from collections.abc import Sequence

from accelerate import Accelerator
from diffusers import AutoencoderKL
from torch.utils.data import DataLoader

from ..dataset.check_data import require_files
from ..dataset.pairs import Pair, read_pairs
from ..interruption import Interrupt, ignore_interrupts
from ..model.tryon_model import TryOnModel
from .augmentation import AugmentedDataset
from .config import TrainConfig
from .distributed_sampler import DistributedStepSampler, iterate_batches
from .latent_cache import LatentCache, LatentDataset, fill_cache
from .losses import require_annotations

PAIRINGS = {"unpaired": (False,), "paired": (True,), "both": (False, True)}  # of validation images

TrainingDataset = LatentDataset | AugmentedDataset


def read_training_pairs(config: TrainConfig) -> tuple[list[Pair], list[Pair]]:
    """The pairs to train on and those of the validation images. StableVITONError that lists files
    that are missing."""
    pairs = read_pairs(config.data, "train", paired=True, category=config.category)
    validation_pairs: list[Pair] = []
    if config.validation_steps:
        for paired in PAIRINGS[config.validation_pairing]:
            file, category = config.validation_pairs, config.category
            listed = read_pairs(config.data, "test", paired, file, category)
            validation_pairs += listed[: config.num_validation_images]
    require_files([*pairs, *validation_pairs])
    require_annotations(config, pairs)
    return pairs, validation_pairs


def make_dataset(
    config: TrainConfig,
    pairs: list[Pair],
    keys: Sequence[Sequence[str]] | None,
    model: TryOnModel,
    autoencoder: AutoencoderKL,
    accelerator: Accelerator,
    interrupt: Interrupt,
) -> TrainingDataset:
    """Encodes the entries that the cache lacks. keys: from `compute_cache_keys`, or None where
    latents are not cached."""
    if keys is None:
        return AugmentedDataset(pairs, config)
    cache = LatentCache(config.cache_folder)
    fill_cache(cache, keys, pairs, config, model, autoencoder, accelerator, interrupt)
    return LatentDataset(cache, keys)


def make_loader(
    config: TrainConfig, dataset: TrainingDataset, sampler: DistributedStepSampler, step: int
) -> DataLoader:
    """This process's batches of the steps that remain after `step`."""
    indices = iterate_batches(config.seed, step, config.max_train_steps, len(dataset), sampler)
    return DataLoader(
        dataset,
        batch_sampler=indices,
        collate_fn=dataset.collate,
        num_workers=config.dataloader_num_workers,
        worker_init_fn=ignore_interrupts,
    )
