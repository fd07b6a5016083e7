"""The command line: `python -m stableviton_core COMMAND`, or `stableviton COMMAND`.

A command is a function of this file whose signature and docstring declare its arguments: a
parameter without a default is a positional argument, a keyword-only parameter a flag. A command
with one dataclass parameter has its fields as flags. Modules with heavy imports are imported by the
commands that need them, so that help is shown without torch.
"""

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from .errors import StableVITONError
from .evaluation.config import EvaluateConfig
from .inference.config import TryOnConfig
from .interruption import INTERRUPTED
from .person.prepare_config import Category, Device, PrepareConfig, Split
from .serving.batch.config import BatchConfig
from .training.config import TrainConfig, VaeConfig

Dtype = Literal["fp32", "fp16", "bf16"]
Command = Callable[..., int | None]
INSTALL = {  # by missing module; other modules come with the extra `train`
    "jsonargparse": 'pip install "jsonargparse[signatures]"',
    "ray": "pip install -e .[ray]",
}


def convert(
    input: Path,
    output: Path,
    *,
    dtype: Dtype = "fp16",
    lora: tuple[Path, ...] = (),
    lora_strength: float = 1.0,
) -> None:
    """Write a released checkpoint, or its VAE, as .safetensors; merge LoRAs into it.

    Args:
        input: A .ckpt or .safetensors file.
        output: The .safetensors file to write.
        dtype: Type of the weights.
        lora: LoRAs of `train --lora-rank` whose updates are added to the weights.
        lora_strength: Factor of these updates.
    """
    from .model.convert import convert

    convert(input, output, dtype, lora, lora_strength)


def init(
    input: Path,
    output: Path,
    *,
    clip: Path | None = None,
    dtype: Dtype = "fp16",
    license: str | None = None,
) -> None:
    """Make a checkpoint to train from, of the released start, Paint-by-Example or SD 1.5.

    Args:
        input: VITONHD_PBE_pose.ckpt, Paint-by-Example, or Stable Diffusion 1.5 (13, 9 or 4 input
            channels).
        output: The .safetensors file to write.
        clip: A CLIP ViT-L/14, required where the input has none.
        dtype: Type of the weights.
        license: License of the input, if its metadata names none and it is not the usual one:
            CC BY-NC-SA 4.0 with 13 input channels, else CreativeML OpenRAIL-M.
    """
    from .training.initialization import initialize_checkpoint

    new = initialize_checkpoint(input, output, clip, dtype, license=license)
    print(f"wrote {output}. New, to be trained: {'; '.join(new) or 'nothing, it was complete'}")


def train(config: TrainConfig) -> None:
    """Train or fine-tune the method on a data set in the VITON-HD or DressCode layout."""
    from .training.trainer import train

    train(config)


def finetune_vae(config: VaeConfig) -> None:
    """Fine-tune the decoder of the VAE on the images of a data set."""
    from .training.finetune_vae import finetune_vae

    finetune_vae(config)


def evaluate(config: EvaluateConfig) -> None:
    """Measure SSIM, LPIPS, FID and KID of results."""
    from .evaluation.metrics import evaluate

    evaluation = evaluate(config)
    print(evaluation.format_table())
    if config.json:
        evaluation.write_json(config.json)


def prepare(
    output: Path,
    *,
    persons: Path,
    garments: Path,
    split: Split = "test",
    height: int = 512,
    width: int = 384,
    category: Category = "upper",
    densepose: Path | None = None,
    segformer: Path | None = None,
    openpose: Path | None = None,
    device: Device = "auto",
    workers: int = 1,
) -> int:
    """Make a data set of photos: agnostic masks, DensePose and label images. Run again, it resumes.

    Args:
        output: Folder to write the VITON-HD layout into.
        persons: Folder of person photos.
        garments: Folder of garment photos. One with a person's name is the garment that the person
            wears, which the split train needs of everyone.
        split: Part of the data set to write, and its pair file.
        height: Pixels, a multiple of 8.
        width: Pixels, a multiple of 8.
        category: Of the garments: upper, lower or dresses.
        densepose: DensePose as TorchScript; without it, drawn from the pose. TorchScript is a
            program that can write files when it is loaded: take it from its publisher only.
        segformer: Folder of a SegFormer that labels clothes; without it, drawn from the pose.
        openpose: OpenPose's body network, which needs controlnet_aux; without it, BlazePose.
        device: Of these three networks: auto, cpu, cuda or mps.
        workers: Processes. Each holds networks of its own.
    """
    from .person.prepare import run

    return run(
        PrepareConfig(
            *(output, persons, garments, split, height, width, category),
            *(densepose, segformer, openpose, device, workers),
        )
    )


def tryon(config: TryOnConfig) -> int:
    """Dress the persons of a data set, or of one photo, without ComfyUI; run again, it resumes."""
    from .inference.command import run

    return run(config)


def batch(config: BatchConfig) -> int:
    """Run a graph for many pairs on many ComfyUI servers; run again, it resumes."""
    from .serving.batch.command import run

    return run(config)


def check_data(data: Path, *, splits: tuple[str, ...] = ("train", "test")) -> int:
    """List every problem of a data set.

    Args:
        data: Folder of the VITON-HD or DressCode layout.
        splits: Parts of the data set to check.
    """
    from .dataset.check_data import check_data

    problems, counts = check_data(data, splits)
    print("\n".join([*problems, counts]))
    return 1 if problems else 0


def make_synthetic(
    output: Path,
    *,
    count: int,
    test_count: int = 16,
    garments: int = 1,
    height: int = 512,
    seed: int = 0,
    patterns: tuple[str, ...] = (),
) -> None:
    """Write a data set of synthetic samples: drawn persons who wear drawn garments.

    Args:
        output: A new folder.
        count: Persons to train on.
        test_count: Persons of the test split.
        garments: Garments that each person to train on wears.
        height: Pixels, a multiple of 32; the width is 3/4 of it.
        seed: Seed of the persons and garments.
        patterns: Patterns of the garments to train on: plain, stripes, checks, dots, shape, letter
            (these by default), patchwork; a name given twice comes twice as often.
    """
    from .synthetic.draw_garment import PATTERNS
    from .synthetic.write_dataset import write_dataset

    write_dataset(output, count, test_count, garments, height, seed, patterns or PATTERNS)


def train_synthetic(output: Path) -> None:
    """Train the demo checkpoint from nothing on synthetic samples (hours on a CPU).

    Args:
        output: Folder for the data sets, the runs and the checkpoint; run again, it resumes.
    """
    from .synthetic.recipe import train_synthetic

    train_synthetic(output)


COMMANDS: dict[str, Command] = {
    function.__name__.replace("_", "-"): function
    for function in (
        *(convert, init, train, finetune_vae, tryon, evaluate, prepare, batch, check_data),
        *(make_synthetic, train_synthetic),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 1 a failure with a message, 2 wrong arguments, 130 after Ctrl-C."""
    try:
        command, values = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        return command(**values) or 0
    except StableVITONError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: a file could not be read or written: {error}", file=sys.stderr)
    except KeyboardInterrupt as error:
        print(error if error.args else "Stopped.", file=sys.stderr)
        return INTERRUPTED
    except ModuleNotFoundError as error:
        install = INSTALL.get(error.name or "", "pip install -e .[train]")
        print(f"error: {error}. This command needs: {install}", file=sys.stderr)
    return 1


def parse_arguments(arguments: Sequence[str]) -> tuple[Command, dict[str, Any]]:
    """The command and the arguments to call it with. Ends the process with a message and code 2
    where an argument is wrong, and with code 0 after help."""
    parser = _build_parser()
    namespace = parser.parse_args(_join_values(arguments))
    command = COMMANDS[namespace.subcommand]
    values = vars(namespace[namespace.subcommand])
    values.pop("config")
    kind = get_config_class(command)
    try:
        return command, {"config": kind(**values)} if kind else values
    except ValueError as error:
        return parser.error(str(error))


def _build_parser() -> Any:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="stableviton", description="StableVITON virtual try-on.", allow_abbrev=False
    )
    subcommands = parser.add_subcommands(metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        summary = (inspect.getdoc(command) or "").partition("\n")[0]
        subparser = ArgumentParser(description=summary, allow_abbrev=False)
        subparser.add_argument("--config", action="config", help="YAML file with these arguments.")
        if kind := get_config_class(command):
            subparser.add_class_arguments(kind, as_group=False)
        else:
            subparser.add_function_arguments(command, as_group=False, as_positional=True)
        subcommands.add_subcommand(name, subparser, help=summary)
    return parser


def get_config_class(command: Command) -> Any:
    """The dataclass whose fields are the arguments of a command, or None."""
    kind = _get_types(command)[0][1]
    return kind if is_dataclass(kind) else None


def _get_types(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [(parameter.name, parameter.annotation) for parameter in parameters]


def _join_values(arguments: Sequence[str]) -> list[str]:
    """Arguments as jsonargparse reads them: names with underscores; a flag of a type with bool
    that has no value is true; the values of a tuple, one after the other or each with the flag,
    are one list."""
    names = [re.sub("^--[^=]+", _use_underscores, argument) for argument in arguments]
    if not names or names[0] not in COMMANDS:
        return names
    command = COMMANDS[names[0]]
    parser = argparse.ArgumentParser(f"stableviton {names[0]}", add_help=False, allow_abbrev=False)
    for name, kind in _get_types(get_config_class(command) or command):
        if any(get_origin(k) is tuple for k in (kind, *get_args(kind))):
            parser.add_argument(f"--{name}", nargs="+", action="extend")
        elif bool in (kind, *get_args(kind)):
            parser.add_argument(f"--{name}", nargs="?", const="true")
    flags, others = parser.parse_known_args(names)
    for name, value in vars(flags).items():
        if isinstance(value, list):
            is_list = len(value) == 1 and value[0].startswith("[")  # "[0, 2]"
            value = value[0] if is_list else json.dumps(value)
        others += [f"--{name}={value}"] if value is not None else []
    return others


def _use_underscores(flag: re.Match[str]) -> str:
    return "--" + flag[0][2:].replace("-", "_")


if __name__ == "__main__":
    sys.exit(main())
