"""The one kind of error that a command shows without a traceback."""


class UserError(ValueError):
    """Something about files or settings: what was expected, what came, and what to do."""
