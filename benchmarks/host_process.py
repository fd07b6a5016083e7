"""ComfyUI with the pack in this process."""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def load_host(
    base: str | Path, cpu: bool = True, flags: Sequence[str] = ()
) -> Callable[[str], ModuleType]:
    """Load the ComfyUI of COMFYUI_PATH with a base directory, and the pack as its custom node; the
    function that returns a module of the pack by its name below the root. flags: of ComfyUI's
    command line, to be set."""
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu, args.base_directory = cpu, str(base)
    for flag in flags:
        setattr(args, flag, True)
    import nodes

    assert asyncio.run(nodes.load_custom_node(str(ROOT))), "the pack does not load"
    ending = ".nodes.host.adapter"
    pack = next(name for name in sys.modules if name.endswith(ending)).removesuffix(ending)
    return lambda name: sys.modules[f"{pack}.{name}"]
