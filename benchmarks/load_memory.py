"""Memory that StableVITONLoader takes for a full-size fp16 file loaded as fp16.

    COMFYUI_PATH=... python benchmarks/load_memory.py

Writes such a file (3.7 GB, seeded values) into a temporary folder, loads it in ComfyUI on the CPU,
and samples the process's anonymous memory (Linux; the mapped file is not in it). Two bytes a
parameter means that no second full copy was made. CLIP and VAE are kept in the host's own types,
so they have rows of their own.
"""

import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from process_memory import PeakMonitor, read_memory

ROOT = Path(__file__).resolve().parent.parent
ANONYMOUS = "RssAnon"


def write_full_size(path: Path) -> None:
    """In a process of its own, for the project's root must not be on the host's path."""
    import torch
    from safetensors.torch import save_file

    manifest = json.loads((ROOT / "tests" / "golden" / "checkpoint_manifest.json").read_text())
    sys.path.insert(0, str(ROOT))
    from stableviton_core.model.checkpoint import UNUSED

    shapes = {key: shape for key, shape in manifest.items() if key not in UNUSED}
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: (torch.randn(shape, generator=generator) * 0.02).half()
        for key, shape in shapes.items()
    }
    save_file(weights, path)


def main() -> None:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    from comfy.cli_args import args

    args.cpu = True
    with tempfile.TemporaryDirectory() as base:
        args.base_directory = base
        models = Path(base, "models", "stableviton")
        models.mkdir(parents=True)
        writer = multiprocessing.Process(target=write_full_size, args=[models / "full.safetensors"])
        writer.start()
        writer.join()
        import nodes

        asyncio.run(nodes.load_custom_node(str(ROOT)))
        loading = next(
            m for name, m in sys.modules.items() if name.endswith("nodes.host.load_checkpoint")
        )
        checkpoint = loading.read_checkpoint(models / "full.safetensors")
        rows = {
            ("unet",): lambda: loading.load_unet(checkpoint, "fp16"),
            ("encoder", "zero_cross_attention"): lambda: loading.load_adapter(
                checkpoint, loading.choose_weight_dtype(checkpoint, "fp16")
            ),
            ("image_projector",): lambda: loading.load_image_projector(checkpoint),
            ("clip",): lambda: loading.load_clip_vision(checkpoint, "fp16"),
            ("autoencoder",): lambda: loading.load_vae(checkpoint),
        }
        print("| components | parameters | peak bytes a parameter | bytes a parameter kept |")
        print("|---|---|---|---|")
        kept = []
        for names, load in rows.items():
            components = [checkpoint.components[name] for name in names]
            count = sum(value.numel() for weights in components for value in weights.values())
            with PeakMonitor(ANONYMOUS) as monitor:
                kept.append(load())
            grown = monitor.peak - monitor.start
            left = read_memory(ANONYMOUS) - monitor.start
            name = ", ".join(names)
            print(f"| {name} | {count / 1e6:.0f} M | {grown / count:.2f} | {left / count:.2f} |")


if __name__ == "__main__":
    main()
