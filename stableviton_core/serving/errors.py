class ServingError(RuntimeError):
    """What went wrong between us and a ComfyUI, in words for its user."""


class ServerError(ServingError):
    """The server did not start, ended, or does not answer as expected."""


class GraphError(ServingError):
    """A graph file is not in the API format or lacks an expected node."""


class PromptError(ServingError):
    """The server refused a graph, or running it failed."""


class PromptInterrupted(PromptError):
    """Running a graph was cancelled."""
