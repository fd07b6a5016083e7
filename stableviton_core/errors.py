"""The errors that a command or a node shows without a traceback. Only what somebody catches by name
has a class of its own."""

SHOWN_AS = "StableVITON"  # the type that ComfyUI shows for the pack's own errors
# What taking apart an object of another layout raises: JSON of somebody else.
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def first_line(error: BaseException) -> str:
    """Of an error's message, to be quoted in another one; its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class StableVITONError(ValueError):
    """Something about files, settings or servers: what was expected, what came, and what to do."""


class CheckpointError(StableVITONError):
    """A file that is not the checkpoint it should be."""


class ImageError(StableVITONError):
    """An image that is missing, cannot be decoded, or does not fit the others."""


class ServerError(StableVITONError):
    """A ComfyUI server did not start, ended, or does not answer as expected."""


class PromptError(StableVITONError):
    """A server refused a graph, or running it failed."""


class PromptInterrupted(PromptError):
    """Running a graph was cancelled."""
