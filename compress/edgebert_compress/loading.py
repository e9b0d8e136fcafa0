"""From a Hugging Face folder to a float32 model with the head of one task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgebert_compress.architecture import HEAD_PREFIXES, HEADS, TaskName, family
from edgebert_compress.errors import CheckpointError, ModelError

LABELLED: tuple[TaskName, ...] = ("text-classification", "token-classification")
SPAN_OUTPUTS = 2  # start and end


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the library's progress bars and load reports; we check what it loaded ourselves."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def one_line(error: BaseException) -> str:
    """The error's text in one short line."""
    return " ".join(str(error).split())[:200]


def read_config(folder: Path) -> Any:
    """The Hugging Face config of a supported encoder. Raises CheckpointError and ModelError."""
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json; give a Hugging Face model folder")
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no .safetensors file; save the model with safe_serialization=True"
        )
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder}/config.json cannot be read: {one_line(error)}; check the model folder"
        ) from error
    family(config.model_type)
    return config


def load_model(
    folder: Path, task: TaskName, labels: Sequence[str] | None = None, *, new_head: bool = False
) -> tuple[nn.Module, bool]:
    """A float32 model for `task` in eval mode, and whether its head is new.

    With `labels` other than the checkpoint's own, or `new_head`, the head starts fresh (from torch's random
    state). A head that the checkpoint lacks is made only with `new_head` or `labels` (empty for tasks that
    have none); otherwise every weight must be there. Raises CheckpointError and ModelError.
    """
    config = read_config(folder)
    foreign = _foreign_head(config, task)
    if foreign and labels is None and not new_head:
        raise CheckpointError(f"{folder} is a {foreign}, which has no {task} head; train a new head first")
    fresh = _set_labels(config, task, labels) or new_head or foreign is not None
    model, info = _from_pretrained(folder, task, config, fresh)
    missing = sorted(info["missing_keys"])
    body = [name for name in missing if not name.startswith(HEAD_PREFIXES)]
    if body or (missing and labels is None and not new_head):
        raise CheckpointError(
            f"{folder} lacks {len(missing)} weights such as '{(body or missing)[0]}'; "
            "give a complete checkpoint"
        )
    other = sorted(entry[0] for entry in info["mismatched_keys"] if not entry[0].startswith(HEAD_PREFIXES))
    if other:
        raise CheckpointError(f"{folder}: '{other[0]}' is not of the shape that config.json says; correct it")
    if fresh:
        _renew_head(model, task)
    model.eval()
    return model, fresh or bool(missing)


def _foreign_head(config: Any, task: TaskName) -> str | None:
    """The class of a checkpoint with the head of another task, which may go by the same parameter names."""
    names = [name for name in config.architectures or () if isinstance(name, str) and "For" in name]
    suffix = HEADS[task].removeprefix("AutoModel")
    if task == "masked-language-model" or not names or any(name.endswith(suffix) for name in names):
        return None
    return names[0]


def _set_labels(config: Any, task: TaskName, labels: Sequence[str] | None) -> bool:
    """Write the labels into `config`; true where they differ from the ones that it had."""
    if task == "question-answering" and config.num_labels != SPAN_OUTPUTS:
        config.num_labels = SPAN_OUTPUTS
    if labels is None or task not in LABELLED:
        return False
    if len(labels) < 2:
        raise ModelError(f"classification needs at least 2 labels, not {len(labels)}; check the data")
    known = tuple(config.id2label.get(i) for i in range(config.num_labels))
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    return tuple(labels) != known


def _from_pretrained(
    folder: Path, task: TaskName, config: Any, other_head: bool
) -> tuple[nn.Module, dict[str, Any]]:
    import transformers

    loader = getattr(transformers, HEADS[task])
    try:
        with quiet_transformers():
            model, info = loader.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=other_head,
                output_loading_info=True,
            )
    except KeyboardInterrupt:
        raise
    except Exception as error:
        if "Unrecognized configuration class" in str(error):
            raise ModelError(
                f"transformers has no {task} head for '{config.model_type}'; use another architecture"
            ) from error
        raise CheckpointError(
            f"{folder} cannot be loaded: {one_line(error)}; check the model folder"
        ) from error
    return model, info


def _renew_head(model: Any, task: TaskName) -> None:
    """Start the head anew: one of the same size would otherwise keep its old meaning."""
    head = [module for name, module in model.named_modules() if f"{name}.".startswith(HEAD_PREFIXES) and name]
    linears = [module for module in head if isinstance(module, nn.Linear)]
    tied = model.get_input_embeddings().weight
    if task == "masked-language-model":
        for norm in (module for module in head if isinstance(module, nn.LayerNorm)):
            norm.reset_parameters()
    else:
        linears = linears[-1:]  # the layer before the outputs serves other labels too
    for linear in linears:
        if linear.weight is not tied:
            nn.init.normal_(linear.weight, std=model.config.initializer_range)
        if linear.bias is not None:
            nn.init.zeros_(linear.bias)
