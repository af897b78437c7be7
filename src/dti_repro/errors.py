"""The errors whose message is meant for the person at the command line, not for a programmer."""


def one_line(text: str) -> str:
    """Return the text without the characters that would begin a new line or steer a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one line that names the file or key and what to
    do."""

    def __init__(self, message: str) -> None:
        """What the message quotes may come from a file: whatever is in it, it stays one line and steers no terminal."""
        super().__init__(one_line(message))


class ProcessDiedError(RuntimeError):
    """One of the processes that a command had started was killed, or ended by itself. The message says which one and
    by what."""


class OutOfMemoryError(MemoryError):
    """A model or a training needs more memory than there is. The message says what to reduce."""


class StoppedError(BaseException):
    """The user pressed Ctrl-C in a training. The message says after which step it stopped. It is no Exception, so that
    a sweep stops, too."""


class DivergedError(RuntimeError):
    """A training left the numbers in which it means anything. The message names the concept, the step and
    what was kept."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the machine's or the GPU's memory was too small. torch has several errors for it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in said for words in ("out of memory", "not enough memory", "can't allocate memory"))
    )
