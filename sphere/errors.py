"""The two errors a user can meet: what they gave us, and what the arithmetic did."""


class InputError(ValueError):
    """Bad input. The message is one line that names the input and the fix."""


class NumericalError(RuntimeError):
    """A computation produced something unusable (NaN, a singular system). The message says what to try."""
