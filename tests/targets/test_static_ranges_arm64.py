"""INT8 with static ranges under qemu-aarch64: XNNPACK's ARM64 kernels against the arithmetic in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebert.devices.base import open_device
from edgebert_targets.base import ConvertOptions, get_target
from edgebert_targets.encoder import load_encoder_spec
from tests.targets.conftest import Checkpoints
from tests.targets.sequences import batch
from tests.targets.static_ranges import calibrated
from tests.targets.test_static_ranges import INPUTS, compare_layers, exposed

SCRIPT = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
given = dict(np.load("given.npz"))
interpreter = Interpreter(model_path="model.tflite", num_threads=1)
interpreter.allocate_tensors()
for value in interpreter.get_input_details():
    interpreter.set_tensor(value["index"], given[value["name"]])
interpreter.invoke()
np.savez("found.npz", *[interpreter.get_tensor(index) for index in given["tensors"]])
"""
LIMIT = 2**22


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76", "max"])
def test_every_layers_integers_on_arm64(cpu: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    spec = calibrated(load_encoder_spec(checkpoints("bert", True)), batch(16, 9, 13, seed=1))
    model, script, given = (tmp_path / name for name in ("model.tflite", "run.py", "given.npz"))
    get_target("arm64").convert(spec, model, ConvertOptions(lengths=(16,)))
    content, names = exposed(model)
    model.write_bytes(content)
    script.write_text(SCRIPT, encoding="utf-8")
    feed = {name: value.astype(np.int32) for name, value in zip(INPUTS, batch(16), strict=True)}
    np.savez(given, tensors=np.array(list(names.values())), **feed)
    with open_device(f"qemu:arm64,cpu={cpu}") as device:
        python = device.python()
        if python is None:
            pytest.skip("needs the ARM64 root: edgebert devices --prepare qemu:arm64")
        for source in (model, script, given):
            device.put(source, source.name)
        done = device.run([*python, "run.py"], timeout=120)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        device.get("found.npz", tmp_path / "found.npz", LIMIT)
    found = np.load(tmp_path / "found.npz")
    compare_layers(spec, {name: found[f"arr_{i}"] for i, name in enumerate(names)}, exact=True)
