"""A target in a distribution of its own, as a plugin would be: what it does follows from its JSON model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgebert.bench import EngineSpec

FAKE_TARGET = """
import json, os, time
from pathlib import Path

class Session:
    def __init__(self, model, options):
        self.facts = json.loads(model.read_text())
        self.log = Path(self.facts["log"])
        self.runs = 0
        self.max_length = 64
        self.note("open", os.getpid(), options.threads)
    def note(self, *words):
        with self.log.open("a") as log:
            print(time.monotonic_ns(), *words, file=log)
    def run(self, input_ids, attention_mask, token_type_ids):
        self.runs += 1
        self.note("run", *input_ids.shape, int(input_ids[0, 1]))
        print("chatter on stdout")
        if self.runs == self.facts.get("die_at"):
            os.write(2, b"out of cheese\\n")
            os._exit(7)
        if self.runs == self.facts.get("fail_at"):
            raise RuntimeError("two\\nlines")
        if self.runs == self.facts.get("hang_at"):
            time.sleep(60)
        time.sleep(self.facts.get("sleep_s", 0.0005))
    def close(self):
        pass

class Target:
    name, backend, model_file = "fake", "Fake runtime", "model.json"
    cpu_architectures = host_architectures = ("x86_64", "aarch64")
    def support(self):
        from edgebert_targets.base import SupportRow
        return (SupportRow("dense-int8", "yes", "zipped only", "a | in a note"),)
    def backend_version(self):
        return "1"
    def kernels(self):
        return None
    def open(self, model, options):
        facts = json.loads(model.read_text())
        if facts.get("damaged"):
            from edgebert_targets.errors import ArtifactError
            raise ArtifactError("model is damaged")
        return Session(model, options)

TARGET = Target()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that makes the target "fake" importable and findable, as an installed plugin would be."""
    (tmp_path / "fake_target.py").write_text(FAKE_TARGET)
    info = tmp_path / "fake_target-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-target\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[edgebert.targets]\nfake = fake_target:TARGET\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def engine(folder: Path, name: str, **facts: object) -> EngineSpec:
    model = folder / f"{name}.json"
    model.write_text(json.dumps({"log": str(model.with_suffix(".log")), **facts}))
    return EngineSpec(name, "fake", model)
