"""python -m stableviton_core {convert,train-demo}"""

import argparse
import sys
from pathlib import Path

from .checkpoint import CheckpointError


def main() -> int:
    parser = argparse.ArgumentParser(prog="stableviton_core", description="StableVITON tools.")
    commands = parser.add_subparsers(dest="command", required=True)

    convert = commands.add_parser(
        "convert", help="write a released checkpoint, or its VAE, as .safetensors"
    )
    convert.add_argument("input", type=Path, help="a .ckpt or .safetensors file")
    convert.add_argument("output", type=Path, help="the .safetensors file to write")
    convert.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp16")

    train_demo = commands.add_parser(
        "train-demo", help="train the demo checkpoint on paper dolls (hours on a CPU)"
    )
    train_demo.add_argument("output", type=Path, help="folder for the checkpoint and its sheets")
    train_demo.add_argument(
        "--resume", action="store_true", help="train the checkpoint in that folder on"
    )

    arguments = parser.parse_args()
    try:
        _run(arguments)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    """The command's module is imported only when it is asked for: training has extras."""
    if arguments.command == "convert":
        from .files import convert

        convert(arguments.input, arguments.output, arguments.dtype)
    else:
        from .training.demo import train_demo

        train_demo(arguments.output, arguments.resume)


if __name__ == "__main__":
    sys.exit(main())
