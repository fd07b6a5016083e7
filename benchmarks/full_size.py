"""Write a checkpoint of the released size with seeded weights: 7.4 GB in fp32, 3.7 GB in 16 bits.

    python benchmarks/full_size.py FILE [--dtype fp16]

FILE ends in .safetensors, or in .ckpt for a pickle as PyTorch Lightning writes it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_full_size(path: Path, dtype: str) -> None:
    """In a process of its own: its memory is returned, and the project's root, whose package
    `nodes` would hide the host's, stays off this one's path."""
    subprocess.run([sys.executable, __file__, str(path), "--dtype", dtype], check=True)


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import torch

    from helpers.checkpoints import seeded_weights, write_checkpoint
    from stableviton_core.model.checkpoint import DTYPES
    from stableviton_core.model.config import ModelConfig

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="fp16")
    arguments = parser.parse_args()
    dtype = DTYPES[arguments.dtype]
    if arguments.file.suffix == ".ckpt":
        weights = seeded_weights(ModelConfig())
        torch.save({"state_dict": {k: v.to(dtype) for k, v in weights.items()}}, arguments.file)
    else:
        write_checkpoint(arguments.file, dtype, ModelConfig())


if __name__ == "__main__":
    main()
