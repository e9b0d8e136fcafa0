"""The engine's C ABI (engine/include/edgebert.h) for ctypes: the loaded library, its types, its errors."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_size_t, c_void_p
from functools import cache
from importlib.resources import files
from pathlib import Path

from edgebert_targets.errors import ArtifactError, InputError, MissingExtraError, WrongCpuError, one_line

LIBRARY = "libedgebert.so"

# eb_status
OK, IO, FORMAT, VERSION, MEMORY, ARGUMENT, INPUT, CPU, THREADS, SPACE = range(10)


class Info(Structure):
    """eb_info."""

    _fields_ = [
        (name, c_int32)
        for name in ("task", "vocabulary", "hidden_size", "layers", "heads", "max_length", "token_types",
                     "outputs", "labels", "has_tokenizer")
    ]  # fmt: skip


class Batch(Structure):
    """eb_batch; pointers are addresses, so that numpy's arrays need no conversion."""

    _fields_ = [("ids", c_void_p), ("token_types", c_void_p), ("lengths", c_void_p), ("sequences", c_size_t)]


_MODEL, _SESSION, _TEXT = c_void_p, c_void_p, (c_char_p, c_size_t, c_char_p, c_size_t)
SIGNATURES = {
    "eb_version": (c_char_p, ()),
    "eb_last_error": (c_char_p, ()),
    "eb_isa": (c_char_p, ()),
    "eb_isa_available": (c_char_p, ()),
    "eb_model_open": (c_int, (c_char_p, POINTER(_MODEL))),
    "eb_model_open_memory": (c_int, (c_void_p, c_size_t, POINTER(_MODEL))),
    "eb_model_close": (None, (_MODEL,)),
    "eb_model_info": (c_int, (_MODEL, POINTER(Info))),
    "eb_model_label": (c_char_p, (_MODEL, c_int32)),
    "eb_session_create": (c_int, (_MODEL, c_int32, POINTER(_SESSION))),
    "eb_session_free": (None, (_SESSION,)),
    "eb_output_size": (c_int, (_SESSION, POINTER(Batch), POINTER(c_size_t))),
    "eb_run": (c_int, (_SESSION, POINTER(Batch), c_void_p, c_size_t)),
    "eb_tokenize": (c_int, (_MODEL, *_TEXT, c_int32, c_void_p, c_void_p, c_size_t, POINTER(c_size_t))),
    "eb_run_text": (c_int, (_SESSION, *_TEXT, c_void_p, c_size_t)),
    "eb_softmax": (None, (POINTER(c_float), c_size_t)),
}


def library_path() -> Path:
    """Where libedgebert.so lies: beside this module, or where an editable installation built it.

    Raises MissingExtraError.
    """
    path = Path(str(files(__package__).joinpath(LIBRARY)))
    if not path.is_file():
        raise MissingExtraError(
            f"{LIBRARY} was not built; run 'make engine' in a checkout, elsewhere install edgebert again"
        )
    return path


@cache
def library() -> ctypes.CDLL:
    """The loaded library with its signatures. Raises MissingExtraError."""
    path = library_path()
    try:
        loaded = ctypes.CDLL(str(path))
        for name, (result, arguments) in SIGNATURES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise MissingExtraError(
            f"{path} does not load ({one_line(error)});"
            " run 'make engine' in a checkout, elsewhere install edgebert again"
        ) from None
    return loaded


def last_error() -> str:
    """What the calling thread's last failed call says, on one line."""
    return " ".join(library().eb_last_error().decode("utf-8", "replace").split())


def check(status: int, what: str = "") -> None:
    """Raise the package's exception for a failed call; `what` names the file or thing it was about."""
    if status == OK:
        return
    message = last_error()
    if what not in message:
        message = f"{what}: {message}"
    if status in (IO, FORMAT, VERSION):
        raise ArtifactError(message)
    if status == CPU:
        raise WrongCpuError(message)
    if status == MEMORY:
        raise MemoryError(message)
    raise InputError(message)
