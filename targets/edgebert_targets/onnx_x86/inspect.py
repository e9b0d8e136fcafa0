"""Reading an ONNX artifact back: its weights, operators and metadata. Needs the onnx library."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from edgebert_targets.base import ArtifactFacts, InputFacts
from edgebert_targets.encoder import EncoderSpec, Linear
from edgebert_targets.errors import ArtifactError, MissingExtraError, one_line
from edgebert_targets.facts import STATIC_NOTE, quantized_share, tensor_facts
from edgebert_targets.integer_layers import integer_layer
from edgebert_targets.onnx_x86.metadata import VNNI, Metadata, parse_metadata
from edgebert_targets.onnx_x86.session import EXACT_PRODUCTS

CONSTANT = "constant/"


def import_onnx() -> Any:
    """The onnx module. Raises MissingExtraError."""
    try:
        import onnx
        import onnx.numpy_helper
    except ImportError:
        raise MissingExtraError("onnx is not installed; run: pip install 'edgebert[convert-x86]'") from None
    return onnx


def read_arrays(model: Path) -> tuple[Any, dict[str, Any]]:
    """The ModelProto in `model` and its initialisers by name. Raises ArtifactError."""
    onnx = import_onnx()
    try:
        # External data would let a file name another one: our artifacts hold everything themselves.
        proto = onnx.load_model(str(model), load_external_data=False)
        if any(tensor.HasField("data_location") for tensor in proto.graph.initializer):
            raise ArtifactError(f"{model}: keeps weights outside the file; build it again")
        arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    except ArtifactError:
        raise
    except FileNotFoundError:
        raise ArtifactError(f"{model}: no such file; give the package's model.onnx") from None
    except Exception as error:  # protobuf's and numpy's errors share no base class
        raise ArtifactError(
            f"{model}: not a readable ONNX file ({one_line(error)}); build it again"
        ) from None
    return proto, arrays


def facts_of(model: Path) -> ArtifactFacts:
    """What `model` holds. Raises ArtifactError and MissingExtraError."""
    proto, arrays = read_arrays(model)
    metadata = parse_metadata(model, {entry.key: entry.value for entry in proto.metadata_props})
    tensors = tuple(
        tensor_facts(name, value) for name, value in sorted(arrays.items()) if not name.startswith(CONSTANT)
    )
    ops = Counter(node.op_type for node in proto.graph.node)
    return ArtifactFacts(
        nbytes=model.stat().st_size,
        tensors=tensors,
        ops=dict(sorted(ops.items())),
        quantized_share=quantized_share(tensors),
        inputs=tuple(InputFacts(value.name, "int64", ("batch", "sequence")) for value in proto.graph.input),
        lengths=(),
        cpu_architectures=("x86_64",),
        cpu_features_any=(),
        notes=(*_notes(metadata), *([STATIC_NOTE] if "DequantizeLinear" in ops else [])),
        task=metadata.task,
    )


def _notes(metadata: Metadata) -> tuple[str, ...]:
    length = f"any length up to {metadata.max_length} tokens"
    if not metadata.quantized:
        return (length,)
    return (
        length,
        f"fast with {' or '.join(VNNI)}; other x86-64 CPUs compute the same answers more slowly",
        f"outside EdgeBERT, a CPU without them needs ONNX Runtime's session option {EXACT_PRODUCTS}=1",
    )


def check_written(spec: EncoderSpec, model: Path) -> None:
    """Assert that the file holds the checkpoint's INT8 values, scales and ranges. Raises ArtifactError."""
    _, arrays = read_arrays(model)
    word = f"{spec.embeddings.name}.word_embeddings.weight"
    for name, weight in spec.quantized_tensors().items():
        values, scale = arrays.get(name), arrays.get(f"{name}.scale")
        if values is None or scale is None or values.dtype != weight.values.dtype:
            raise ArtifactError(f"{model}: '{name}' was not written as INT8; report this as a bug")
        same = (values if name == word else values.T).tobytes() == weight.values.tobytes()
        if not (same and scale.tobytes() == weight.scale.tobytes()):
            raise ArtifactError(f"{model}: '{name}' differs from the checkpoint; report this as a bug")
    for linear in spec.linears():
        for name, value in _static_constants(linear).items():
            stored = arrays.get(name)
            if stored is None or (stored.dtype, stored.tobytes()) != (value.dtype, value.tobytes()):
                raise ArtifactError(f"{model}: '{name}' differs from the checkpoint; report this as a bug")


def _static_constants(linear: Linear) -> dict[str, Any]:
    """Everything but the weight that a layer with static ranges stores; nothing for another."""
    from edgebert_targets.onnx_x86.static_projection import range_constants

    integer = integer_layer(linear)
    if integer is None:
        return {}
    ends = {"input": integer.ranges.input, "output": integer.ranges.output}
    ranges = [range_constants(f"{linear.name}.{end}", stands_for) for end, stands_for in ends.items()]
    return {f"{linear.name}.bias": integer.float_bias, **ranges[0], **ranges[1]}
