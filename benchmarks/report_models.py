"""A custom node module for the server of endurance.py: GET /endurance counts what is alive.

It answers with JSON: model patchers alive, their patches, wrappers and additional models, the
models in the memory manager, and the tensors that the garbage collector knows.
"""

import gc
import sys

import comfy.model_management
import torch
from aiohttp import web
from comfy.model_patcher import ModelPatcher
from server import PromptServer

NODE_CLASS_MAPPINGS: dict[str, type] = {}


def count_alive() -> dict[str, int]:
    gc.collect()
    objects = [item for item in gc.get_objects() if isinstance(item, (ModelPatcher, torch.Tensor))]
    patchers = [item for item in objects if isinstance(item, ModelPatcher)]
    return {
        "patchers": len(patchers),
        "patches": sum(count_patches(patcher) for patcher in patchers),
        "wrappers": sum(count_wrappers(patcher) for patcher in patchers),
        "additional": sum(
            len(models) for patcher in patchers for models in patcher.additional_models.values()
        ),
        "loaded": len(comfy.model_management.current_loaded_models),
        "modules": len(sys.modules),
        "tensors": len(objects) - len(patchers),
    }


def count_patches(patcher: ModelPatcher) -> int:
    """Patches of weights, and functions in the transformer options."""
    options = patcher.model_options.get("transformer_options", {})
    functions = [*options.get("patches", {}).values(), *options.get("patches_replace", {}).values()]
    return sum(map(len, patcher.patches.values())) + sum(map(len, functions))


def count_wrappers(patcher: ModelPatcher) -> int:
    return sum(len(items) for kind in patcher.wrappers.values() for items in kind.values())


@PromptServer.instance.routes.get("/endurance")
async def report(_: web.Request) -> web.Response:
    return web.json_response(count_alive())
