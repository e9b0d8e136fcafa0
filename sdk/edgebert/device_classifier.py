"""Classify text with a package on a device."""

from __future__ import annotations

from collections.abc import Sequence

from edgebert.device_check import architecture_notes
from edgebert.device_session import DeviceModel, answer_all, model_on_host, open_model
from edgebert.devices.base import Device
from edgebert.manifest import Manifest
from edgebert.package import Package
from edgebert.pipeline import package_target
from edgebert.progress import Reporter
from edgebert.tasks import text_classification
from edgebert.tasks.text_classification import Prediction


class DeviceClassifier:
    """An open package whose model lies on a device."""

    def __init__(self, manifest: Manifest, model: DeviceModel, threads: int, notes: tuple[str, ...]) -> None:
        self.manifest = manifest
        self.notes = notes
        self._model = model
        self._threads = threads

    def classify(self, texts: Sequence[str], pairs: Sequence[str | None], top_k: int = 1) -> list[Prediction]:
        """A prediction for each of one or more texts or pairs. Raises DeviceError and DataError."""
        answers = answer_all(self._model, texts, pairs, self._threads)
        return text_classification.predictions(answers.logits, self.manifest.labels, top_k)


def load_on_device(package: Package, device: Device, threads: int, reporter: Reporter) -> DeviceClassifier:
    """The open `package` on the entered `device`. Raises DeviceError, WrongCpuError and UsageError."""
    manifest, facts = package.manifest, device.facts()
    notes = architecture_notes(package_target(manifest), device.name, facts.architecture)
    return DeviceClassifier(manifest, open_model(device, model_on_host(package), reporter), threads, notes)
