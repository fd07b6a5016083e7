"""Tries a garment on a person with the demo checkpoint, on a ComfyUI of its own.

The first run creates `.venv` and downloads ComfyUI; see environment.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from environment import ROOT, SetupError, prepare, run_to_end


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Try a garment on a person.")
    file = {"type": Path, "metavar": "FILE"}
    demo = ROOT / "demo"
    parser.add_argument(
        "--output",
        **file,
        default=ROOT / "output" / "tryon.png",
        help="the result (default: output/tryon.png of the project); an image "
        "grid of garment, person, result and correspondence is written beside it",
    )
    parser.add_argument("--person", **file, default=demo / "person.png")
    parser.add_argument(
        "--mask",
        **file,
        default=demo / "mask.png",
        help="white where the person may change, black elsewhere",
    )
    parser.add_argument("--densepose", **file, default=demo / "densepose.png")
    parser.add_argument("--garment", **file, default=demo / "garment.png")
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
    return run_to_end(command)


if __name__ == "__main__":
    sys.exit(main())
