"""Errors of the product and the exit code of each. Messages are one line: what, the bad value, what next."""

EXIT_OK = 0
EXIT_BUG = 1
EXIT_GATE = 2
EXIT_USAGE = 3
EXIT_DATA = 4
EXIT_MODEL = 5
EXIT_PACKAGE = 6
EXIT_WRONG_CPU = 7
EXIT_OUTPUT = 8
EXIT_DISK_FULL = 9
EXIT_MISSING_EXTRA = 10
EXIT_RECIPE = 11
EXIT_TRAINING = 12
EXIT_DEVICE = 13
EXIT_ANDROID = 14
EXIT_INTERRUPTED = 130


class EdgeBertError(Exception):
    """Base of every error that the sdk raises on purpose; `exit_code` is what the CLI exits with."""

    exit_code = EXIT_BUG


class GateError(EdgeBertError):
    """Accuracy fell by more than was allowed."""

    exit_code = EXIT_GATE


class UsageError(EdgeBertError):
    """An option or argument that makes no sense."""

    exit_code = EXIT_USAGE


class DataError(EdgeBertError):
    """Missing or malformed data; names the file and the line."""

    exit_code = EXIT_DATA


class ModelError(EdgeBertError):
    """A model that cannot be loaded or that has an unsupported architecture or task."""

    exit_code = EXIT_MODEL


class PackageError(EdgeBertError):
    """A package that is damaged, tampered with, or of an unknown format."""

    exit_code = EXIT_PACKAGE


class WrongCpuError(EdgeBertError):
    """A package whose model cannot run on this CPU."""

    exit_code = EXIT_WRONG_CPU


class OutputError(EdgeBertError):
    """An output that exists already or cannot be written."""

    exit_code = EXIT_OUTPUT


class DiskFullError(OutputError):
    """No space left where the output goes."""

    exit_code = EXIT_DISK_FULL


class MissingExtraError(EdgeBertError):
    """A library of an extra is not installed; the message is the command that installs it."""

    exit_code = EXIT_MISSING_EXTRA


class DeviceError(EdgeBertError):
    """A device that is unknown, cannot be reached, or did not do what it was told to."""

    exit_code = EXIT_DEVICE


class AndroidError(EdgeBertError):
    """The Android library or archive cannot be built."""

    exit_code = EXIT_ANDROID
