"""Errors of the targets package. Each message is one line: what is wrong, the bad value, the next step."""


class TargetError(Exception):
    """Base of every error that this package raises on purpose."""


class UnknownTargetError(TargetError):
    """No installed target has this name."""


class MissingExtraError(TargetError):
    """A backend's library is not installed; the message says what to install."""


class UnsupportedModelError(TargetError):
    """The checkpoint's architecture, head or operator cannot be converted."""


class ArtifactError(TargetError):
    """An artifact is damaged, or does not hold what was written into it."""


class InputError(TargetError):
    """Ids out of range, a sequence that is too long, or shapes that do not match."""


class WrongCpuError(TargetError):
    """The artifact needs CPU features that this machine does not have."""


def one_line(error: BaseException, limit: int = 200) -> str:
    """What a library said, on one line of at most `limit` characters, for use inside our own message."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:limit]
