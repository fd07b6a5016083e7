"""ComfyUI-StableVITON: virtual try-on as ordinary MODEL, CONDITIONING, LATENT, MASK and IMAGE."""

from comfy_api.latest import ComfyExtension, io

from .nodes.correspondence import StableVITONCorrespondence
from .nodes.crop import StableVITONCrop, StableVITONStitch
from .nodes.details import StableVITONDetail, StableVITONScore
from .nodes.host.folders import copy_demo_images, register_folders
from .nodes.host.replacements import register_replacements
from .nodes.host.server import name_errors
from .nodes.loading import StableVITONLoader
from .nodes.lora import StableVITONLora
from .nodes.masks import StableVITONAgnosticMask, StableVITONGarment
from .nodes.person import StableVITONDensePose, StableVITONParse, StableVITONPose
from .nodes.sampling import StableVITONPLMS, StableVITONReuse, StableVITONSchedule
from .nodes.tryon import StableVITONApply, StableVITONConditioning, StableVITONPasteBack

WEB_DIRECTORY = "./web"


class StableVITONExtension(ComfyExtension):
    async def on_load(self) -> None:
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            StableVITONLoader,
            StableVITONLora,
            StableVITONApply,
            StableVITONConditioning,
            StableVITONPLMS,
            StableVITONSchedule,
            StableVITONReuse,
            StableVITONPasteBack,
            StableVITONCrop,
            StableVITONStitch,
            StableVITONPose,
            StableVITONParse,
            StableVITONDensePose,
            StableVITONAgnosticMask,
            StableVITONGarment,
            StableVITONCorrespondence,
            StableVITONDetail,
            StableVITONScore,
        ]


async def comfy_entrypoint() -> StableVITONExtension:
    register_folders()
    copy_demo_images()
    name_errors()
    return StableVITONExtension()
