"""The errors whose message is meant for the person at the command line, not for a programmer."""


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line that names the file or key and what to
    do."""


class DivergedError(RuntimeError):
    """A training left the numbers in which it means anything. The message names the concept, the step and
    what was kept."""
