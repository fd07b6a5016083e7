"""Names that the pack's nodes share."""

from comfy_api.latest import io

CATEGORY = "StableVITON"

StableVITONSocket = io.Custom("STABLEVITON")
