"""ComfyUI's server, where one runs: not in a script that loads the nodes only."""

import logging
import sys
from collections.abc import Sequence
from typing import Any

from comfy_execution.utils import get_executing_context

from ...stableviton_core.errors import SHOWN_AS, StableVITONError

_NOTHING = " "  # the web interface ignores an empty text
_warned: set[str] = set()  # ids of the nodes that show warnings


def find_server() -> Any | None:
    """The running PromptServer; None without one."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def show_warnings(warnings: Sequence[str]) -> None:
    """Write warnings to the log and on the node that runs; without any, take those of an earlier
    run off the node."""
    for warning in warnings:
        logging.warning("StableVITON: %s", warning)
    server, context = find_server(), get_executing_context()
    if server is None or context is None:
        return
    if warnings:
        _warned.add(context.node_id)
        server.send_progress_text("\n".join(warnings), context.node_id)
    elif context.node_id in _warned:
        _warned.remove(context.node_id)
        server.send_progress_text(_NOTHING, context.node_id)


def name_errors() -> None:
    """Have ComfyUI show our errors as "StableVITON: message": it prints an exception's module,
    unless that is `builtins`, and its qualified name. They cannot be pickled afterwards."""
    errors: list[type[StableVITONError]] = [StableVITONError]
    for error in errors:
        error.__module__, error.__qualname__ = "builtins", SHOWN_AS
        errors.extend(error.__subclasses__())
