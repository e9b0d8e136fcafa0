"""How fast is our ONNX graph? Against what an export plus ONNX Runtime's own BERT fusions give.

    python benchmarks/onnx_forms.py CHECKPOINT [--quantized CHECKPOINT] [--static CHECKPOINT]
        [--lengths 32 64 128] [--rounds 50]

Forms: the exported graph after onnxruntime.transformers.optimizer (fp32), the same after ONNX Runtime's own
dynamic quantisation (per-channel weights, per-tensor inputs), our fp32 graph and, with --quantized and
--static, our INT8, also with the exact kernels that a CPU without VNNI gets.
One thread, batch 1, all tokens real. The forms take turns within each round, so that a busy machine hits all
alike; figures are milliseconds of CPU time. Prints JSON. Needs the extras build and convert-x86.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from edgebert_targets.base import ConvertOptions, SessionOptions
from edgebert_targets.cpu import Cpu
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.onnx_x86 import TARGET, OnnxTarget

WITHOUT_VNNI = Cpu("x86_64", frozenset({"avx2"}))


def export_with_fusions(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Paths of the fused fp32 model and of its dynamically quantised copy."""
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.transformers import optimizer
    from transformers import AutoModelForSequenceClassification

    torch.set_num_threads(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    names = ["input_ids", "attention_mask", "token_type_ids"]

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Any:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits

    ids = torch.full((2, 16), 5)
    exported, fused, quantized = (folder / f"{name}.onnx" for name in ("exported", "fused", "dynamic"))
    # The optimizer's patterns are those of the TorchScript exporter.
    torch.onnx.export(
        Logits(),
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        str(exported),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in names},
        opset_version=17,
        dynamo=False,
    )
    config = model.config
    result = optimizer.optimize_model(
        str(exported), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    result.save_model_to_file(str(fused))
    # Shape inference stops at the fused operators, so it has to be told that their results are floats.
    quantize_dynamic(fused, quantized, per_channel=True, extra_options={"DefaultTensorType": 1})
    return fused, quantized


def plain_session(model: Path) -> Any:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return ort.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])


def measure(runs: dict[str, Any], length: int, vocabulary: int, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of CPU time a form: the minimum and the median over `rounds`."""
    ids = np.random.default_rng(0).integers(vocabulary // 2, vocabulary, (1, length))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 3):
        for name, run in runs.items():
            start = time.process_time_ns()
            run(feed)
            if turn >= 3:  # the first turns warm caches up
                times[name].append((time.process_time_ns() - start) / 1e6)
    return {
        name: {"min": round(min(values), 3), "p50": round(float(np.median(values)), 3)}
        for name, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="BERT folder with float weights")
    parser.add_argument("--quantized", type=Path, help="the same model's compressed checkpoint")
    parser.add_argument("--static", type=Path, help="one compressed with `activations: static`")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fused, dynamic = export_with_fusions(options.checkpoint, folder)
        sessions: dict[str, Any] = {
            "exported, fused fp32": plain_session(fused),
            "exported, dynamic INT8": plain_session(dynamic),
        }
        runs = {name: lambda feed, s=session: s.run(None, feed) for name, session in sessions.items()}
        spec = load_encoder_spec(options.checkpoint)
        ours = {"ours fp32": spec}
        for name, folder_given in (("ours INT8", options.quantized), ("ours static INT8", options.static)):
            if folder_given:
                ours[name] = load_encoder_spec(folder_given)
        for name, form in ours.items():
            path = folder / f"{name}.onnx"
            TARGET.convert(form, path, ConvertOptions())
            opened = TARGET.open(path, SessionOptions())
            runs[name] = lambda feed, s=opened: s.run(**feed)
            if form.quantized:
                exact = OnnxTarget(cpu=lambda: WITHOUT_VNNI).open(path, SessionOptions())
                runs[f"{name}, as without VNNI"] = lambda feed, s=exact: s.run(**feed)
        vocabulary = spec.embeddings.word_shape[0]
        results = {
            str(length): measure(runs, length, vocabulary, options.rounds) for length in options.lengths
        }
    print(json.dumps({"onnxruntime": ort.__version__, "ms_cpu_by_length": results}, indent=2))


if __name__ == "__main__":
    main()
