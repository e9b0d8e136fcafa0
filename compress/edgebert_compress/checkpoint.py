"""The compressed checkpoint of docs/formats.md: reading, checking and writing it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from edgebert_compress import quantize
from edgebert_compress.activation_ranges import StaticActivations
from edgebert_compress.architecture import HEADS, TaskName, layer_list, prunable_parameters
from edgebert_compress.errors import CheckpointError
from edgebert_compress.loading import load_model, quiet_transformers
from edgebert_compress.masks import Masks, masks_from_zeros
from edgebert_compress.quantize import Int8Tensor
from edgebert_compress.quantized_file import read_quantized, stored_names, write_quantized
from edgebert_compress.recipe import BLOCK_SIZES, Activations, Attention

Name = TypeVar("Name", Attention, Activations)
FORMAT = 1
RECORD_FILE = "compression.json"
MAX_RECORD_BYTES = 16 << 20
PRUNED_FROM = 0.01  # rounding leaves far fewer exact zeros
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True)
class CompressionRecord:
    """What `compression.json` holds."""

    seed: int
    recipe: dict[str, Any]
    stages: tuple[dict[str, Any], ...]
    layers_kept: tuple[int, ...]
    sparsity: dict[str, dict[str, Any]] = field(default_factory=dict)
    quantization: dict[str, Any] | None = None
    task: TaskName = "text-classification"

    def as_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to train or run, and its record (None: a plain Hugging Face folder).

    `new_head`: the head is untrained.
    """

    model: nn.Module
    record: CompressionRecord | None
    new_head: bool = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Classes in the order of the logits; for tasks without classes what transformers writes there."""
        config: Any = self.model.config
        return tuple(config.id2label[i] for i in range(config.num_labels))


def read_record(folder: Path) -> CompressionRecord | None:
    """`compression.json` of `folder`, None without one. Raises CheckpointError."""
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_RECORD_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_RECORD_BYTES} bytes; build the checkpoint again")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has format {values['format']!r}, this version reads {FORMAT}; update edgebert"
            )
        patterns = {str(name): dict(row) for name, row in values["sparsity"].items()}
        if not all(row["pattern"] in BLOCK_SIZES for row in patterns.values()):
            raise ValueError("unknown sparsity pattern")
        task = values.get("task", "text-classification")  # records from before other tasks have no entry
        if task not in HEADS:
            raise ValueError(f"unknown task {str(task)[:60]!r}")
        return CompressionRecord(
            seed=int(values["seed"]),
            recipe=dict(values["recipe"]),
            stages=tuple(dict(stage) for stage in values["stages"]),
            layers_kept=tuple(int(index) for index in values["layers_kept"]),
            sparsity=patterns,
            quantization=None if values["quantization"] is None else dict(values["quantization"]),
            task=task,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); build it again"
        ) from error


def load(
    folder: Path,
    task: TaskName = "text-classification",
    labels: Sequence[str] | None = None,
    *,
    new_head: bool = False,
) -> Checkpoint:
    """A compressed or plain folder; a quantised one comes back in simulated INT8 with its stored integers.

    `labels` and `new_head` as in `load_model`: with them the encoder of a checkpoint for another task gets a
    head for `task`, and keeps its zeros and its record. Raises CheckpointError and ModelError.
    """
    record = read_record(folder)
    if record is not None and record.task != task and labels is None and not new_head:
        raise CheckpointError(
            f"{folder} was compressed for {record.task}, not {task}; train a new head first"
        )
    model, fresh = load_model(folder, task, labels, new_head=new_head)
    if record is None:
        return Checkpoint(model, None, fresh)
    depth, listed = len(layer_list(model)), len(record.layers_kept)
    if depth != listed:
        raise CheckpointError(
            f"{folder} has {depth} layers, but {RECORD_FILE} lists {listed}; build it again"
        )
    if record.quantization is not None:
        if fresh:
            raise CheckpointError(
                f"{folder} is quantised and its weights are fixed, it cannot learn a new head; "
                "start from the checkpoint before"
            )
        attention, activations, stored = _quantization(folder, record.quantization)
        names = quantize.prepare(model, attention, stored)
        quantize.fix(model, *read_quantized(folder, model, names, static=activations == "static"))
    return Checkpoint(model, replace(record, task=task), fresh)


def _quantization(folder: Path, values: Mapping[str, Any]) -> tuple[Attention, Activations, tuple[str, ...]]:
    """The kinds of attention and activations, and the names of the quantised parameters.

    Raises CheckpointError.
    """
    path, stored = folder / RECORD_FILE, values.get("tensors")
    attention = _known(
        path, "attention", values.get("attention", quantize.ATTENTION["float"]), quantize.ATTENTION
    )
    dynamic = quantize.ACTIVATIONS["dynamic"]
    activations = _known(path, "activations", values.get("activations", dynamic), quantize.ACTIVATIONS)
    if not isinstance(stored, list) or not all(isinstance(name, str) for name in stored):
        raise CheckpointError(f"{path} lists no quantised tensors; build it again")
    return attention, activations, tuple(stored)


def _known(path: Path, what: str, text: object, names: Mapping[Name, str]) -> Name:
    """Which of `names` the record calls `text`. Raises CheckpointError."""
    found = next((name for name, known in names.items() if known == text), None)
    if found is None:
        known = ", ".join(names.values())
        raise CheckpointError(f"{path} has {what} {str(text)[:60]!r}; this version knows: {known}")
    return found


def masks_of(checkpoint: Checkpoint) -> Masks:
    """Masks of the pruned tensors, read back from their zeros; of a plain folder as `find_sparsity` sees it.

    Raises CheckpointError for an unknown name.
    """
    parameters = prunable_parameters(checkpoint.model)
    masks: Masks = {}
    listed = checkpoint.record.sparsity if checkpoint.record else find_sparsity(checkpoint.model)
    for name, row in listed.items():
        if name not in parameters:
            raise CheckpointError(f"{RECORD_FILE} names '{name}', which the model has not; build it again")
        masks |= masks_from_zeros({name: parameters[name]}, BLOCK_SIZES[row["pattern"]])
    return masks


def find_sparsity(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The `sparsity` entry of a model without a record, such as one that others have pruned.

    A tensor counts as pruned from 1 % zeros on; its pattern is the largest block that makes up all its zeros.
    """
    patterns = {}
    for name, weight in prunable_parameters(model).items():
        zeros = int((weight == 0).sum())
        if zeros < PRUNED_FROM * weight.numel():
            continue
        for pattern, block in sorted(BLOCK_SIZES.items(), key=lambda item: -item[1]):
            if weight.shape[-1] % block == 0:
                masks = masks_from_zeros({name: weight}, block)
                if int((~masks[name]).sum()) == zeros:
                    patterns[name] = pattern
                    break
    return count_zeros(model, patterns)


def count_zeros(model: nn.Module, patterns: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The `sparsity` entry: exact zeros of each tensor of `patterns` as it stands in the model."""
    return {
        name: {
            "pattern": pattern,
            "zeros": int((model.get_parameter(name) == 0).sum()),
            "size": model.get_parameter(name).numel(),
        }
        for name, pattern in patterns.items()
    }


def check_free(out: Path) -> None:
    """Raises CheckpointError when `out` exists and is not an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out} exists already; remove it or choose another folder")


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `out` when the block ends well, and goes away when it does not.

    Raises CheckpointError when `out` exists and is not an empty folder, OSError when it cannot be written.
    """
    from safetensors import SafetensorError

    check_free(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(out)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        # a full disk must look like one, whichever library wrote
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(out)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_model(model: Any, source: Path, folder: Path) -> None:
    """`config.json`, `model.safetensors` and the tokenizer files of `source` into the existing `folder`."""
    with quiet_transformers():
        model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def save(
    checkpoint: Checkpoint,
    source: Path,
    out: Path,
    *,
    quantized: Mapping[str, Int8Tensor] | None = None,
    attention: Attention = "float",
    static: StaticActivations | None = None,
) -> None:
    """Write a compressed checkpoint to `out`, which appears whole or not at all.

    `quantized`: the integers of a model in simulated INT8, which become its float weights too; `attention`:
    the kind of attention that it was prepared with; `static`: its ranges, where it has static ones.
    """
    record = checkpoint.record
    if record is None:
        raise CheckpointError("a checkpoint without a record cannot be saved as a compressed one")
    if static is None and quantize.static_ranges(checkpoint.model):
        raise CheckpointError(
            "the model has static activation ranges, which only a quantize stage saves; copy its folder"
        )
    with atomic_folder(out) as folder:
        if quantized is not None:
            quantize.fix(checkpoint.model, quantized, None if static is None else static.ranges)
            quantize.round_vectors(checkpoint.model)
            owners = stored_names(checkpoint.model, list(quantized))
            stored = {name: quantized[name] for name in owners.values()}
            write_quantized(folder, stored, None if static is None else static.ranges)
            scheme = {
                **quantize.SCHEME,
                "activations": quantize.ACTIVATIONS["dynamic" if static is None else "static"],
                "attention": quantize.ATTENTION[attention],
            }
            if static is not None:
                scheme["calibration"] = static.calibration
            record = replace(record, quantization={**scheme, "tensors": sorted(stored)})
        record = replace(
            record,
            sparsity=count_zeros(
                checkpoint.model, {name: row["pattern"] for name, row in record.sparsity.items()}
            ),
        )
        write_model(checkpoint.model, source, folder)
        text = json.dumps(record.as_dict(), indent=2, sort_keys=True, allow_nan=False)
        (folder / RECORD_FILE).write_text(text + "\n", encoding="utf-8")
