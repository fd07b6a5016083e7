"""What is wrong with a run of the command `tryon`, all at once, before a model is loaded."""

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..dataset.check_data import require_files
from ..dataset.pairs import DRESSCODE_FOLDERS, Pair, format_result_name, read_pairs
from ..errors import StableVITONError
from ..files import hash_file, replace_atomically
from .config import DEVICES, TryOnConfig
from .devices import list_device_problems

SETTINGS = "tryon.json"
# settings that change results, besides those of the files
RECORDED = (
    *("repaint", "steps", "height", "width", "start", "guidance", "seed", "garment_fit"),
    "dtype",
)


def check_run(config: TryOnConfig) -> list[Pair]:
    """The pairs of a data set, in the order of its pairs file; none for a photo.

    StableVITONError lists everything that is wrong with settings, files, data and device.
    """
    own_problems = config.list_problems()
    files = (config.checkpoint, config.vae, config.person, config.garment)
    problems = own_problems + [
        f"{path} is not a file" for path in files if path and not path.is_file()
    ]
    if config.device in DEVICES and not config.on_ray:
        problems += list_device_problems(config)
    pairs: list[Pair] = []
    if config.data is not None:
        try:
            paired = not config.unpaired
            category = config.category if config.category in DRESSCODE_FOLDERS else None
            pairs = read_pairs(config.data, "test", paired, category=category)
            problems += list_name_collisions(pairs, config)
            require_files(pairs)
        except StableVITONError as error:
            problems.append(str(error))
        if not own_problems:
            problems += list_changed_settings(config)
    if problems:
        listing = "\n".join(f"- {problem}" for problem in problems)
        raise StableVITONError(f"nothing was made, {len(problems)} problems:\n{listing}")
    return list({result_file(pair, config): pair for pair in pairs}.values())


def result_file(pair: Pair, config: TryOnConfig) -> Path:
    return config.result_folder / format_result_name(pair, f".{config.format}")


def list_name_collisions(pairs: Sequence[Pair], config: TryOnConfig) -> list[str]:
    """Different pairs whose results would have one name. A pair that is there twice is none."""
    distinct = {(pair.image, pair.cloth): pair for pair in pairs}
    counts = Counter(result_file(pair, config).name for pair in distinct.values())
    return [
        f"{count} pairs would have the result {name}: rename a file, or choose a --category"
        for name, count in counts.items()
        if count > 1
    ]


def record_settings(config: TryOnConfig) -> None:
    """Write the settings beside the results, for `list_changed_settings`, unless they are there."""
    file = config.result_folder / SETTINGS
    if file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_collect_settings(config), indent=2) + "\n"
    with suppress(FileNotFoundError):  # another process of the same launch has just written it
        with replace_atomically(file) as partial:
            partial.write_text(text, encoding="utf-8")


def list_changed_settings(config: TryOnConfig) -> list[str]:
    """How the settings differ from those of the results that are already there, as one entry; also
    where there are results and no settings."""
    file = config.result_folder / SETTINGS
    if not file.is_file():
        images = file.parent.glob(f"*.{config.format}")
        unknown = f"{file.parent} holds images of unknown settings: choose another --output"
        return [unknown] if any(images) else []
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
        current = _collect_settings(config)
        changed = [
            f"{name} was {earlier.get(name)}, is {value}"
            for name, value in current.items()
            if earlier.get(name) != value
        ]
    except (ValueError, AttributeError) as error:
        return [f"{file} cannot be read ({error}): delete it, or choose another --output"]
    if not changed:
        return []
    return [
        f"{file.parent} holds results of other settings ({'; '.join(changed)}): choose another "
        "--output, or delete them"
    ]


def _collect_settings(config: TryOnConfig) -> dict[str, object]:
    settings: dict[str, object] = {name: getattr(config, name) for name in RECORDED}
    for name, path in (("checkpoint", config.checkpoint), ("vae", config.vae)):
        is_file = path is not None and path.is_file()
        # two checkpoints of one network often have one name and one size
        settings[name] = f"{path.name}, SHA-256 {hash_file(path)}" if path and is_file else None
    # its name only, for machines that share the data may have it at other paths
    settings["data"] = config.data.resolve().name if config.data else None
    return settings
