"""A package whose model lies on a device, asked as one on this machine is."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgebert.device_check import architecture_notes
from edgebert.device_session import CHUNK, DeviceModel, model_on_host, open_model
from edgebert.devices.base import Device
from edgebert.models.base import PackageModel
from edgebert.package import Package
from edgebert.pipeline import model_of, package_target
from edgebert.progress import Reporter
from edgebert.tokenizer import EncodedBatch

Ids = NDArray[np.int64]


class SessionOnDevice:
    """The device's model as a `Session`."""

    def __init__(self, model: DeviceModel, threads: int) -> None:
        self._model = model
        self._threads = threads

    @property
    def max_length(self) -> int:
        return self._model.max_length

    def run(self, input_ids: Ids, attention_mask: Ids, token_type_ids: Ids) -> NDArray[np.float32]:
        """As `Session.run`. Raises DeviceError and InputError."""
        encoded = EncodedBatch(input_ids, attention_mask, token_type_ids)
        answers = self._model.answer_ids(encoded, self._threads)
        if answers[0].ndim == 1:
            return np.stack(answers)
        padded = np.zeros((*input_ids.shape, answers[0].shape[1]), np.float32)
        padded[attention_mask != 0] = np.concatenate(answers)
        return padded

    def close(self) -> None:
        """The device removes what lies on it when it is left."""


def load_on_device(package: Package, device: Device, threads: int, reporter: Reporter) -> PackageModel:
    """The open `package` on the entered `device`. Raises DeviceError, WrongCpuError and UsageError."""
    facts = device.facts()
    notes = architecture_notes(package_target(package.manifest), device.name, facts.architecture)
    model = open_model(device, model_on_host(package), reporter)
    return model_of(package, SessionOnDevice(model, threads), notes, batch=CHUNK)
