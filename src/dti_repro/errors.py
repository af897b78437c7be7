"""Errors whose message is for the user at the command line."""


def one_line(text: str) -> str:
    """Return the text without line breaks and control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


class InputError(ValueError):
    """An input cannot be used. The message is one line: it names the file or the key and says what to do."""

    def __init__(self, message: str) -> None:
        """Keep the message on one line, without control characters: it may quote the content of a file."""
        super().__init__(one_line(message))


class ProcessDiedError(RuntimeError):
    """A process that a command started was killed or ended early. The message says which one and why."""


class OutOfMemoryError(MemoryError):
    """A model or a training needs more memory than there is. The message says what to reduce."""


class StoppedError(BaseException):
    """The user pressed Ctrl-C in a training. The message says after which step it stopped. It is a BaseException,
    so that a sweep stops, too."""


class DivergedError(RuntimeError):
    """A loss or a gradient of this concept became too large, infinite or NaN. The message names it, the step and the
    file that keeps the last good state."""

    def __init__(self, message: str, concept: str) -> None:
        super().__init__(message, concept)  # both, so that it can be sent from a process
        self.concept = concept

    def __str__(self) -> str:
        return self.args[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the machine's or the GPU's memory was too small. torch has several errors for it."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in said for words in ("out of memory", "not enough memory", "can't allocate memory"))
    )
