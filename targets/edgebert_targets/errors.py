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
