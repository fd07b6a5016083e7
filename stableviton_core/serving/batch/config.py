"""The settings of the command `batch`. Imports nothing heavy, for the command line's help."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BatchConfig:
    """What to make (listed pairs, or persons in all garments), with which graph, and where.

    Args:
        graph: Graph in the API format.
        output: Folder for the results.
        pairs: CSV with the columns person,garment[,mask,densepose,seed].
        persons: Folder of person images, instead of pairs.
        garments: Folder of garment images, instead of pairs.
        masks: Folder of agnostic masks, named as the persons.
        denseposes: Folder of DensePose images, named as the persons.
        seed: Seed of pairs that have none.
        server: URLs of running ComfyUI servers; may be repeated.
        start_servers: Number of ComfyUI servers to start instead.
        ray: Address of a Ray cluster to use instead; without an address, this machine.
        ray_actors: ComfyUI servers on the cluster; one per GPU by default.
        comfyui: Folder of the ComfyUI to start servers from (with its main.py).
        set: Node inputs to change, NODE.INPUT=VALUE; may be repeated.
        person_node: Title or id of the node with the person image, if not Person.
        garment_node: Title or id of the node with the garment image, if not Garment.
        mask_node: Title or id of the node with the mask, if not Mask.
        densepose_node: Title or id of the node with the DensePose image, if not DensePose.
        result_node: Title or id of the node with the result, if not Result.
        timeout: Seconds for one pair with one seed.
        best_of: Seeds to try for each pair, from its own on; the result with the best score is
            kept. Needs a graph with a StableVITONScore node.
        contact_sheet: Also write an image grid of all results.
    """

    graph: Path
    output: Path
    pairs: Path | None = None
    persons: Path | None = None
    garments: Path | None = None
    masks: Path | None = None
    denseposes: Path | None = None
    seed: int = 0
    server: tuple[str, ...] = ()
    start_servers: int = 0
    ray: bool | str = False
    ray_actors: int | None = None
    comfyui: Path | None = None
    set: tuple[str, ...] = ()
    person_node: str | None = None
    garment_node: str | None = None
    mask_node: str | None = None
    densepose_node: str | None = None
    result_node: str | None = None
    timeout: float = 3600.0
    best_of: int = 1
    contact_sheet: bool = False
