"""ComfyUI processes of a batch's own."""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..install import FOLDER_NAME, install_pack
from ..process import Server, accelerators, serve


@contextmanager
def own_servers(count: int, comfyui: Path, base: Path) -> Iterator[Sequence[Server]]:
    """So many servers, spread over the CUDA devices, or on the CPU where there is none. base: a
    folder for their files. They use the models and custom nodes of the ComfyUI folder. ServerError
    where one does not start."""
    devices = accelerators()
    with ExitStack() as stack:
        yield [
            stack.enter_context(own_server(comfyui, base / str(index), index, devices))
            for index in range(count)
        ]


@contextmanager
def own_server(comfyui: Path, base: Path, index: int, devices: int) -> Iterator[Server]:
    base.mkdir(parents=True, exist_ok=True)
    if not (comfyui / "custom_nodes" / FOLDER_NAME).exists():
        install_pack(base)
    paths = base / "extra_model_paths.yaml"
    paths.write_text(json.dumps(_model_paths(comfyui)), encoding="utf-8")  # JSON is YAML
    options = ["--extra-model-paths-config", str(paths)]
    if devices > 1:
        options += ["--cuda-device", str(index % devices)]
    with serve(comfyui, base, cpu=devices == 0, options=options) as server:
        yield server


def _model_paths(comfyui: Path) -> dict[str, dict[str, str]]:
    folders = {path.name: str(path) for path in (comfyui / "models").glob("*") if path.is_dir()}
    if (comfyui / "custom_nodes").is_dir():
        folders["custom_nodes"] = str(comfyui / "custom_nodes")
    return {"comfyui": folders}
