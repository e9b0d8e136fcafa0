"""Our LiteRT files against litert-torch with ai-edge-quantizer: time, ARM64 instructions, bytes, error.

    python benchmarks/litert_peers.py CHECKPOINT QUANTIZED [--static STATIC] [--python ENV/bin/python]
        [--instructions]

CHECKPOINT is a float BERT classifier, QUANTIZED its compressed INT8 checkpoint, STATIC the one compressed
with `activations: static`. ENV holds the peers, which are left out without it:

    python -m venv ENV && ENV/bin/pip install torch==2.13.0 litert-torch==0.10.0 ai-edge-quantizer==0.10.0 \\
        transformers

All forms run in this process on the same LiteRT, one thread, batch 1, all tokens real, and take turns within
each round, so that a busy machine hits all alike; figures are milliseconds of CPU time. `--instructions`
counts those of one inference under qemu-aarch64, cortex-a76 (needs its ARM64 root: edgebert devices).
Ours holds the vocabulary that MediaPipe reads; its bytes are given by themselves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebert_targets.base import ConvertOptions
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.litert_arm64 import TARGET

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers" / "litert_torch_form.py"
CALIBRATION_ROWS = 8
COUNTED, COUNT_TIMEOUT = 2, 900.0
COUNT_SCRIPT = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from litert_device_script import regions
model, length = sys.argv[1], int(sys.argv[2])
runner = Interpreter(model_path=model, num_threads=1).get_signature_runner()
feed = {name: np.ones((1, length), np.int32) for name in runner.get_input_details()}
runner(**feed)
begin, end, page = regions()
begin()
for _ in range(int(sys.argv[3])):
    runner(**feed)
end()
"""
Feed = dict[str, NDArray[np.int32]]


def random_rows(vocabulary: int, length: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    return [rng.integers(vocabulary // 2, vocabulary, (1, length)) for _ in range(CALIBRATION_ROWS)]


def make_forms(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """Every form's file by its name: ours, then theirs."""
    plain, quantized = load_encoder_spec(options.checkpoint), load_encoder_spec(options.quantized)
    specs = {"ours float32": plain, "ours INT8": quantized}
    if options.static:
        specs["ours static INT8"] = load_encoder_spec(options.static)
    forms = {}
    for name, spec in specs.items():
        forms[name] = folder / f"{name}.tflite"
        TARGET.convert(spec, forms[name], ConvertOptions(lengths=(options.length,)))
    ids = folder / "ids.npz"
    rows = random_rows(plain.embeddings.word_shape[0], options.length)
    np.savez(ids, **{str(i): row for i, row in enumerate(rows)})
    if not options.python:
        return forms
    subprocess.run(
        [options.python, PEERS, options.checkpoint, str(options.length), folder, ids, "dynamic", "static"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return {**forms, **{f"litert-torch {form}": folder / f"{form}.tflite" for form in
                        ("float32", "dynamic", "static")}}  # fmt: skip


def runner(model: Path) -> Callable[[Feed], NDArray[Any]]:
    """The model's first output as floats; keeps its interpreter alive."""
    interpreter = Interpreter(str(model), num_threads=1)
    call = interpreter.get_signature_runner()
    [(name, output)] = call.get_output_details().items()
    scale, zero = output["quantization"]

    def run(feed: Feed, interpreter: Any = interpreter) -> NDArray[Any]:
        answer = call(**feed)[name]
        return (answer.astype(np.float32) - zero) * scale if scale else answer

    return run


def torch_logits(checkpoint: Path, rows: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(1)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        ids = torch.from_numpy(np.concatenate(rows))
        logits: NDArray[np.float32] = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids)
        ).logits.numpy()
    return logits


def feed_of(ids: NDArray[np.int64]) -> Feed:
    row = ids.astype(np.int32)
    return {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row)}


def packed_bytes(model: Path) -> int:
    """Bytes of the zip behind the model, 0 without one."""
    if not zipfile.is_zipfile(model):
        return 0
    with zipfile.ZipFile(model) as archive:
        return model.stat().st_size - min(entry.header_offset for entry in archive.infolist())


def times(runs: dict[str, Callable[[Feed], Any]], feed: Feed, rounds: int) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 3):
        for name, run in runs.items():
            start = time.process_time_ns()
            run(feed)
            if turn >= 3:  # the first turns warm caches up
                found[name].append((time.process_time_ns() - start) / 1e6)
    return {
        name: {"min": round(min(values), 3), "p50": round(float(np.median(values)), 3)}
        for name, values in found.items()
    }


def instructions(model: Path, length: int) -> int:
    """Of one inference on an emulated cortex-a76."""
    from edgebert.devices.base import open_device

    with open_device("qemu:arm64,cpu=cortex-a76") as device, tempfile.TemporaryDirectory() as folder:
        python = device.python()
        if python is None:
            raise SystemExit("the ARM64 root is missing; run: edgebert devices")
        script = Path(folder) / "count.py"
        script.write_text(COUNT_SCRIPT, encoding="utf-8")
        helper = Path(folder) / "litert_device_script.py"
        helper.write_bytes(files("edgebert").joinpath(helper.name).read_bytes())
        for source, name in ((script, "count.py"), (helper, helper.name), (model, "model.tflite")):
            device.put(source, name)
        done, count = device.run_counted(  # type: ignore[attr-defined]
            [*python, "count.py", "model.tflite", str(length), str(COUNTED)],
            timeout=COUNT_TIMEOUT,
            env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        if done.returncode:
            raise SystemExit(done.stderr.decode(errors="replace")[-2000:])
    return int(count) // COUNTED


def counted(names: list[str] | None, forms: Iterable[str]) -> list[str]:
    """The forms whose instructions are counted: those asked for, by default what is INT8 and not too slow."""
    if names is None:
        return []
    return names or [name for name in forms if "INT8" in name or name == "litert-torch dynamic"]


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    forms = make_forms(options, folder)
    runs = {name: runner(model) for name, model in forms.items()}
    rows = [value.astype(np.int64) for value in np.load(folder / "ids.npz").values()]
    wanted = torch_logits(options.checkpoint, rows)
    measured = times(runs, feed_of(rows[0]), options.rounds)
    report = {}
    for name, run in runs.items():
        answers = np.concatenate([run(feed_of(row)) for row in rows])
        report[name] = {
            "bytes": forms[name].stat().st_size,
            "of_them_files_for_mediapipe": packed_bytes(forms[name]),
            "ms_cpu": measured[name],
            "largest_difference_to_pytorch": round(float(np.abs(answers - wanted).max()), 6),
        }
    for name in counted(options.instructions, forms):
        report[name]["instructions_cortex_a76"] = instructions(forms[name], options.length)
    return {
        "what": "LiteRT files of one classifier, one thread, batch 1, on this machine and emulated",
        "length": options.length,
        "ai_edge_litert": version("ai-edge-litert"),
        "forms": report,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("quantized", type=Path)
    parser.add_argument("--static", type=Path, help="the checkpoint compressed with static ranges")
    parser.add_argument("--python", type=Path, help="interpreter of the peers' environment")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument(
        "--instructions",
        nargs="*",
        metavar="FORM",
        help="count for these forms, as 'ours INT8'; without names: INT8 but the peer's static form",
    )
    parser.add_argument("--json", type=Path, help="write the report there instead of printing it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        text = json.dumps(compare(options, Path(temporary)), indent=1) + "\n"
    if options.json:
        options.json.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
