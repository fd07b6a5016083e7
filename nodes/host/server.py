"""ComfyUI's server, where one runs: not in a script that loads the nodes only."""

import logging
import sys
from typing import Any

from comfy_execution.utils import get_executing_context

from ...stableviton_core.errors import StableVITONError


def find_server() -> Any | None:
    """The running PromptServer."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def warn(message: str) -> None:
    """Write a warning to the log, and on the node that runs and the subgraphs around it."""
    logging.warning("StableVITON: %s", message)
    server, context = find_server(), get_executing_context()
    if server is None or context is None:
        return
    numbers = context.node_id.split(":")  # of the subgraphs, then of the node in the last one
    for depth in range(1, len(numbers) + 1):
        server.send_progress_text(message, ":".join(numbers[:depth]))


def name_errors() -> None:
    """Have ComfyUI show our errors as "StableVITON: message": it prints an exception's module,
    unless that is `builtins`, and its qualified name."""
    errors: list[type[StableVITONError]] = [StableVITONError]
    for error in errors:
        error.__module__, error.__qualname__ = "builtins", "StableVITON"
        errors.extend(error.__subclasses__())
