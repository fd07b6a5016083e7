"""Node ids of graphs that were saved before the first release, and the nodes that took their place.

ComfyUI replaces them in graphs that are queued, and offers it for those that are opened. Outputs
are in the same order; no mapping says so, because ComfyUI fails on one between two replaced nodes.
"""

from comfy_api.latest import ComfyAPI, io

from .server import find_server

CROP = io.NodeReplace(
    old_node_id="StableVITONFrame",
    new_node_id="StableVITONCrop",
    old_widget_ids=["width", "height", "around"],
    input_mapping=[
        {"old_id": name, "new_id": name} for name in ("photo", "width", "height", "around")
    ],
)
STITCH = io.NodeReplace(
    old_node_id="StableVITONUnframe",
    new_node_id="StableVITONStitch",
    input_mapping=[
        {"old_id": old, "new_id": new}
        for old, new in (("frame", "crop"), ("image", "image"), ("mask", "mask"))
    ],
)


async def register_replacements() -> None:
    """Nothing where no server runs, as in a script that loads the nodes only."""
    if find_server() is None:
        return
    for replacement in (CROP, STITCH):
        await ComfyAPI().node_replacement.register(replacement)
