"""What a file must hold after it was written: asserted on the file, not on what we meant to write."""

from __future__ import annotations

from pathlib import Path

from edgebert_targets.answers import check_first_run
from edgebert_targets.base import SessionOptions
from edgebert_targets.encoder import EncoderSpec
from edgebert_targets.errors import ArtifactError
from edgebert_targets.integer_layers import integer_layer
from edgebert_targets.litert_arm64.delegation import delegation
from edgebert_targets.litert_arm64.inspect import CONSTANT, StoredModel, read_model
from edgebert_targets.litert_arm64.session import load_interpreter, open_session

# The integer inputs become float vectors before XNNPACK begins: id reshapes, look-ups and casts.
LEFT_TO_THE_RUNTIME = frozenset(["CAST", "EMBEDDING_LOOKUP", "RESHAPE"])
SMALLEST_SHARE = 0.9


def check_written(spec: EncoderSpec, lengths: tuple[int, ...], model: Path) -> None:
    """Raise ArtifactError unless `model` holds `spec` for `lengths`, runs, and runs on XNNPACK.

    Checked: every INT8 value and scale is the checkpoint's; no other weight is INT8, and none is float that
    the checkpoint has as INT8 (alignment and operator versions: `read_model`); the layers with static ranges
    are those of the checkpoint, with its ranges and biases; XNNPACK takes the graph in one piece; every
    length answers.
    """
    try:
        stored = read_model(model)
        if stored.lengths != lengths:
            raise ArtifactError(f"lengths {stored.lengths}, not {lengths}")
        _check_weights(spec, stored)
        _check_ranges(spec, stored)
        _check_delegation(model, len(spec.layers))
    except ArtifactError as error:
        raise ArtifactError(f"{model}: {error}; report this as a bug") from None
    session = open_session(model, SessionOptions())
    try:
        for length in lengths:
            check_first_run(spec, session, length)
    finally:
        session.close()


def _check_weights(spec: EncoderSpec, stored: StoredModel) -> None:
    quantized = spec.quantized_tensors()
    for name, weight in quantized.items():
        values, scale = stored.arrays.get(name), stored.scales.get(name)
        if values is None or scale is None or values.dtype != weight.values.dtype:
            raise ArtifactError(f"'{name}' was not written as INT8")
        if values.tobytes() != weight.values.tobytes() or scale.tobytes() != weight.scale.tobytes():
            raise ArtifactError(f"'{name}' differs from the checkpoint")
    floats = {name for name, _ in spec.named_weights()} - set(quantized)
    for name, value in stored.arrays.items():
        if value.dtype == "int8" and name not in quantized:
            raise ArtifactError(f"'{name}' was written as INT8, the checkpoint has it as float")
        # Two rows of token types are stored as a row and a step; positions as a slice for each length.
        known = name.partition("[")[0] in floats or name.startswith(CONSTANT)
        if value.dtype == "float32" and value.ndim == 2 and not known:
            raise ArtifactError(f"'{name}' was written as float")


def _check_ranges(spec: EncoderSpec, stored: StoredModel) -> None:
    layers = {f"{linear.name}.weight": linear for linear in spec.linears()}
    for name, linear in layers.items():
        if stored.ranges.get(name) != linear.ranges:
            raise ArtifactError(f"'{name}' has ranges {stored.ranges.get(name)}, not {linear.ranges}")
        integer, bias = integer_layer(linear), f"{linear.name}.bias"
        if integer is None:
            continue
        values, scale = stored.arrays.get(bias), stored.scales.get(bias)
        if values is None or scale is None or values.dtype != integer.bias.dtype:
            raise ArtifactError(f"'{bias}' was not written as {integer.bias.dtype}")
        if values.tobytes() != integer.bias.tobytes() or scale.tobytes() != integer.bias_scale.tobytes():
            raise ArtifactError(f"'{bias}' differs from the checkpoint")
    unknown = sorted(set(stored.ranges) - set(layers))
    if unknown:
        raise ArtifactError(f"'{unknown[0]}' takes INT8, and is no layer of the checkpoint")


def _check_delegation(model: Path, layers: int) -> None:
    found = delegation(load_interpreter(model, threads=1))
    foreign = sorted(set(found.left) - LEFT_TO_THE_RUNTIME)
    # A model without a layer has little but the look-ups.
    if found.pieces != 1 or foreign or (layers and found.share < SMALLEST_SHARE):
        raise ArtifactError(
            f"XNNPACK takes {found.share:.0%} of {found.operators} operators in {found.pieces} pieces"
            + (f", not {foreign[0]}" if foreign else "")
        )
