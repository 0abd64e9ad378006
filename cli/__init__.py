"""The command line: ``comms``."""


class CommandError(Exception):
    """What went wrong, in one sentence for the person at the terminal; no traceback is shown for it."""
