"""Tries a garment on a person with the demo checkpoint, on a ComfyUI of its own.

The first run makes `.venv` and downloads ComfyUI; see environment.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from environment import ROOT, SetupError, hand_over, prepare


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Try a garment on a person.")
    picture = {"type": Path, "metavar": "FILE"}
    demo = ROOT / "demo"
    parser.add_argument(
        "--output",
        **picture,
        default=ROOT / "output" / "tryon.png",
        help="the result (default: output/tryon.png of the project); a sheet of "
        "garment, person and result is written beside it",
    )
    parser.add_argument("--person", **picture, default=demo / "person.png")
    parser.add_argument(
        "--mask",
        **picture,
        default=demo / "mask.png",
        help="what may change on the person is white, the rest black",
    )
    parser.add_argument("--densepose", **picture, default=demo / "densepose.png")
    parser.add_argument("--garment", **picture, default=demo / "garment.png")
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="a file of ComfyUI's models/stableviton (default: the demo's)",
    )
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    try:
        environment = prepare()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    command = [str(environment.python), "-m", "stableviton_core.serving.demo"]
    command += ["--comfyui", str(environment.comfyui)]
    for name in ("output", "person", "mask", "densepose", "garment"):
        command += [f"--{name}", str(getattr(arguments, name).resolve())]
    if arguments.checkpoint:
        command += ["--checkpoint", arguments.checkpoint]
    return hand_over(command)


if __name__ == "__main__":
    sys.exit(main())
