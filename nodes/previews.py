"""What a node shows of its result on itself."""

import torch.nn.functional as F
from comfy_api.latest import io, ui
from einops import rearrange
from torch import Tensor

LONGER_SIDE = 768  # of a preview, pixels


def preview(images: Tensor, node: type[io.ComfyNode]) -> ui.PreviewImage:
    """What `NodeOutput(ui=...)` takes to show images on a node.

    images: IMAGE B x H x W x 3 in 0..1; shown no larger than LONGER_SIDE. They are written to
    ComfyUI's temporary folder.
    """
    scale = LONGER_SIDE / max(images.shape[1:3])
    if scale < 1:
        size = [max(1, round(side * scale)) for side in images.shape[1:3]]
        smaller = F.interpolate(rearrange(images, "b h w c -> b c h w"), size, mode="area")
        images = rearrange(smaller, "b c h w -> b h w c")
    return ui.PreviewImage(images, cls=node)
