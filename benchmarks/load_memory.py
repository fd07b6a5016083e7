"""Memory that StableVITONLoader takes for a full-size fp16 file loaded as fp16.

    COMFYUI_PATH=... python benchmarks/load_memory.py

Writes such a file (3.7 GB, seeded values) into a temporary folder, loads it in ComfyUI on the CPU,
and samples the process's anonymous memory (Linux; the mapped file is not in it). Two bytes a
parameter means that no second full copy was made. CLIP and VAE are kept in the host's own types,
so they have rows of their own.
"""

import tempfile
from pathlib import Path

from full_size import write_full_size
from host_process import load_host
from process_memory import PeakMonitor, read_memory

ANONYMOUS = "RssAnon"


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        file = Path(base, "full.safetensors")
        write_full_size(file, "fp16")
        loading = load_host(base)("nodes.host.load_checkpoint")
        checkpoint = loading.read_checkpoint(file)
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
        kept: list[object] = []
        before, peak = read_memory(ANONYMOUS), 0.0
        for names, load in rows.items():
            components = [checkpoint.components[name] for name in names]
            count = sum(value.numel() for weights in components for value in weights.values())
            with PeakMonitor(ANONYMOUS) as monitor:
                kept.append(load())
            peak = max(peak, monitor.peak)
            grown = monitor.peak - monitor.start
            left = read_memory(ANONYMOUS) - monitor.start
            name = ", ".join(names)
            print(f"| {name} | {count / 1e6:.0f} M | {grown / count:.2f} | {left / count:.2f} |")
        print(f"peak of all: {(peak - before) / file.stat().st_size:.2f} x the file")


if __name__ == "__main__":
    main()
