"""EdgeBERT: compress a Hugging Face BERT, prove it on a device, package it, run the package.

>>> import edgebert
>>> with edgebert.load("out/x86") as classifier:
...     classifier.classify(["turn on the light"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgebert.builder import build
    from edgebert.models.answerer import Answerer
    from edgebert.models.classifier import Classifier
    from edgebert.models.embedder import Embedder
    from edgebert.models.tagger import Tagger
    from edgebert.package import Package, open_package
    from edgebert.pipeline import load
    from edgebert.tasks.question_answering import Answer
    from edgebert.tasks.text_classification import Prediction
    from edgebert.validate import PackageValidation, validate_package

__version__ = "0.2.0"

# name -> module, imported on first use: `import edgebert` must not pay for runtimes, let alone torch.
_EXPORTS = {
    "build": "edgebert.builder",
    "load": "edgebert.pipeline",
    "Classifier": "edgebert.models.classifier",
    "Tagger": "edgebert.models.tagger",
    "Answerer": "edgebert.models.answerer",
    "Embedder": "edgebert.models.embedder",
    "Answer": "edgebert.tasks.question_answering",
    "Prediction": "edgebert.tasks.text_classification",
    "open_package": "edgebert.package",
    "Package": "edgebert.package",
    "validate_package": "edgebert.validate",
    "PackageValidation": "edgebert.validate",
}

__all__ = [
    "Answer",
    "Answerer",
    "Classifier",
    "Embedder",
    "Package",
    "PackageValidation",
    "Prediction",
    "Tagger",
    "__version__",
    "build",
    "load",
    "open_package",
    "validate_package",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'edgebert' has no attribute '{name}'")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value
