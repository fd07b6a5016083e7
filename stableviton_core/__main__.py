"""python -m stableviton_core COMMAND: the command line. `--help` lists the commands."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import StableVITONError
from .model.checkpoint import DTYPES
from .serving.batch.flags import add_flags


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] in TYPED:  # its flags come from its typed configuration
        command, chosen = TYPED[arguments[0]], argparse.Namespace(rest=arguments[1:])
    else:
        chosen = _parser().parse_args(arguments)
        command = chosen.run
    try:
        return command(chosen) or 0
    except StableVITONError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {error}. This command needs: pip install -e .[train]", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stableviton_core", description="StableVITON tools.")
    commands = parser.add_subparsers(dest="command", required=True)

    convert = commands.add_parser(
        "convert", help="write a released checkpoint, or its VAE, as .safetensors"
    )
    convert.add_argument("input", type=Path, help="a .ckpt or .safetensors file")
    convert.add_argument("output", type=Path, help="the .safetensors file to write")
    convert.add_argument("--dtype", choices=tuple(DTYPES), default="fp16")
    convert.set_defaults(run=_convert)

    init = commands.add_parser(
        "init", help="make a checkpoint to train from, out of Paint-by-Example or SD 1.5"
    )
    init.add_argument("input", type=Path, help="a checkpoint with 9 or 4 input channels")
    init.add_argument("output", type=Path, help="the .safetensors file to write")
    init.add_argument("--clip", type=Path, help="a CLIP ViT-L/14, where the input has none")
    init.add_argument("--dtype", choices=tuple(DTYPES), default="fp16")
    init.add_argument("--license", help="the input's, if not CreativeML OpenRAIL-M")
    init.set_defaults(run=_init)

    commands.add_parser("train", help="train or fine-tune; train --help has all flags")

    commands.add_parser("finetune-vae", help="fine-tune the VAE; finetune-vae --help has all flags")

    write_dataset = commands.add_parser("make-synthetic", help="write paper dolls as a data set")
    write_dataset.add_argument("output", type=Path, help="a new folder")
    write_dataset.add_argument("--count", type=int, required=True, help="persons to train on")
    write_dataset.add_argument("--test-count", type=int, default=16, help="unseen persons")
    write_dataset.add_argument("--garments", type=int, default=1, help="that each person wears")
    write_dataset.add_argument("--height", type=int, default=512, help="the width is 3/4 of it")
    write_dataset.add_argument("--seed", type=int, default=0)
    write_dataset.add_argument(
        "--patterns",
        nargs="+",
        default=[],
        help="of the garments to train on: plain, stripes, checks, dots, shape, letter (these by "
        "default), patchwork; a name given twice comes twice as often",
    )
    write_dataset.set_defaults(run=_make_dolls)

    prepare = commands.add_parser(
        "prepare", help="make a data set of photos: masks and DensePose, approximate"
    )
    prepare.add_argument("output", type=Path, help="folder to write the VITON-HD layout into")
    prepare.add_argument("--persons", type=Path, required=True, help="folder of photos")
    prepare.add_argument("--garments", type=Path, required=True, help="folder of photos")
    prepare.add_argument("--height", type=int, default=512)
    prepare.add_argument("--width", type=int, default=384)
    prepare.set_defaults(run=_prepare)

    check_data = commands.add_parser("check-data", help="list everything wrong with a data set")
    check_data.add_argument("data", type=Path, help="folder of the VITON-HD layout")
    check_data.add_argument("--splits", nargs="+", default=["train", "test"])
    check_data.set_defaults(run=_check_data)

    evaluate = commands.add_parser("evaluate", help="SSIM, LPIPS, FID and KID of results")
    evaluate.add_argument("--results", type=Path, required=True, help="folder of results")
    evaluate.add_argument("--reference", type=Path, required=True, help="folder of real pictures")
    evaluate.add_argument(
        "--protocol", choices=("hr-viton", "catvton", "ladi-viton"), required=True
    )
    evaluate.add_argument(
        "--unpaired", action="store_true", help="results have no true picture: FID and KID only"
    )
    evaluate.add_argument("--backbone-dir", type=Path, help="folder with the metrics' networks")
    evaluate.add_argument("--json", type=Path, help="also write the figures to this file")
    evaluate.set_defaults(run=_evaluate)

    batch = commands.add_parser(
        "batch", help="run a graph for many pairs on many ComfyUI servers, and go on where it ended"
    )
    add_flags(batch)
    batch.set_defaults(run=_batch)

    train_synthetic = commands.add_parser(
        "train-synthetic", help="train the demo checkpoint on paper dolls (hours on a CPU)"
    )
    train_synthetic.add_argument(
        "output", type=Path, help="folder for the checkpoint and its sheets"
    )
    train_synthetic.set_defaults(run=_train_demo)
    return parser


# A command's modules are imported only when it is asked for: training has extras.


def _convert(chosen: argparse.Namespace) -> None:
    from .model.checkpoint import convert

    convert(chosen.input, chosen.output, chosen.dtype)


def _init(chosen: argparse.Namespace) -> None:
    from .training.initialization import SOURCE_LICENSE, prepare_start

    license = chosen.license or SOURCE_LICENSE
    fresh = prepare_start(chosen.input, chosen.output, chosen.clip, chosen.dtype, license=license)
    print(f"wrote {chosen.output}. New, to be trained: {'; '.join(fresh)}")


def _train(chosen: argparse.Namespace) -> None:
    from .training.config import TrainConfig, parse_config

    config = parse_config(chosen.rest, TrainConfig, "train")
    from .training.trainer import train

    train(config)


def _finetune_vae(chosen: argparse.Namespace) -> None:
    from .training.config import parse_config
    from .training.finetune_vae import VaeConfig, finetune_vae

    finetune_vae(parse_config(chosen.rest, VaeConfig, "finetune-vae"))


TYPED = {"train": _train, "finetune-vae": _finetune_vae}


def _make_dolls(chosen: argparse.Namespace) -> None:
    from .synthetic.write_dataset import PATTERNS, write_dataset

    write_dataset(
        chosen.output,
        chosen.count,
        chosen.test_count,
        chosen.garments,
        chosen.height,
        chosen.seed,
        chosen.patterns or PATTERNS,
    )


def _prepare(chosen: argparse.Namespace) -> int:
    from .person.prepare import REPORT, prepare

    done = prepare(chosen.persons, chosen.garments, chosen.output, chosen.height, chosen.width)
    print(f"{len(done.persons)} persons, {len(done.garments)} garments in {chosen.output}")
    if done.unused:
        print(f"{len(done.unused)} photos could not be used, see {chosen.output / REPORT}")
    return 0 if done.persons and done.garments else 1


def _check_data(chosen: argparse.Namespace) -> int:
    from .training.check_data import check_data

    problems, counts = check_data(chosen.data, chosen.splits)
    print("\n".join([*problems, counts]))
    return 1 if problems else 0


def _evaluate(chosen: argparse.Namespace) -> None:
    from .evaluation.metrics import evaluate, table

    figures = evaluate(
        chosen.results, chosen.reference, chosen.protocol, not chosen.unpaired, chosen.backbone_dir
    )
    print(table(figures))
    if chosen.json:
        figures.save(chosen.json)


def _batch(chosen: argparse.Namespace) -> int:
    from .serving.batch.command import run

    return run(chosen)


def _train_demo(chosen: argparse.Namespace) -> None:
    from .synthetic.recipe import train_synthetic

    train_synthetic(chosen.output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
