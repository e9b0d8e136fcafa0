"""Errors of the compression package. Each is one line: what is wrong, the bad value, the next step."""


class CompressError(Exception):
    """Base of every error that this package raises on purpose."""


class RecipeError(CompressError):
    """A recipe is malformed or asks for something impossible."""


class ModelError(CompressError):
    """The model cannot be compressed: unsupported architecture, task or shape."""


class CheckpointError(CompressError):
    """A checkpoint folder is incomplete, damaged or of an unknown format."""


class TrainingError(CompressError):
    """Training went wrong: non-finite loss or gradients, empty data."""
