"""GPU memory of sampling as ComfyUI accounts for it, without a GPU.

    COMFYUI_PATH=... python benchmarks/gpu_memory.py

Released size, fp16. ComfyUI loads as much of the weights as fits beside what it expects the pass to
take, and the rest layer by layer; where both fit, nothing is moved during sampling. Flash: with
PyTorch's flash attention or xformers, as on NVIDIA cards; else with its other kernels.
"""

import tempfile

import torch
from host_process import load_host

SIZES = ((512, 384), (1024, 768))  # height, width
GIBIBYTE = 2**30


def main() -> None:
    with tempfile.TemporaryDirectory() as base:
        module = load_host(base)
        import comfy.model_management

        host_model, core = module("nodes.host.model"), module("stableviton_core.model.config")
        adapters = module("nodes.host.adapter")
        config = core.ModelConfig()
        model_config = host_model.StableVITONModelConfig(config)
        model_config.set_inference_dtype(torch.float16, None)
        with torch.device("meta"):
            model = host_model.StableVITONModel(model_config, device=torch.device("meta"))
            adapter = adapters.TryOnAdapter(
                config.network, module("stableviton_core.model.layers").TORCH
            )
        count = sum(p.numel() for part in (model, adapter) for p in part.parameters())
        weights = 2 * count / GIBIBYTE
        print("| size | guidance | attention | weights GiB | pass GiB | together |")
        print("|---|---|---|---|---|---|")
        for height, width in SIZES:
            for batch, guidance in ((1, "1"), (2, "other")):
                for flash in (True, False):
                    comfy.model_management.xformers_enabled = lambda flash=flash: flash
                    shape = [batch, 4, height // 8, width // 8]
                    conds = {host_model.GARMENT: [shape]}
                    needed = model.memory_required(shape, conds) / GIBIBYTE
                    name = "flash" if flash else "other"
                    print(
                        f"| {width} x {height} | {guidance} | {name} | {weights:.1f} | "
                        f"{needed:.1f} | {weights + needed:.1f} |"
                    )


if __name__ == "__main__":
    main()
