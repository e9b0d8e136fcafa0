"""Convert a BERT classifier with litert-torch and ai-edge-quantizer, in their own environment.

    python litert_torch_form.py CHECKPOINT LENGTH FOLDER IDS.npz [dynamic] [static]

Writes FOLDER/float32.tflite and what is named: dynamic.tflite (INT8 weights per channel, dynamic INT8 inputs)
and static.tflite (INT8 inputs by calibration on IDS.npz: int64 arrays [1, LENGTH]).
See `environments.py` for the environment.
"""

import sys
from pathlib import Path
from typing import Any

import litert_torch  # type: ignore[import-not-found]
import numpy as np
import torch
from transformers import AutoModelForSequenceClassification


class Logits(torch.nn.Module):
    """int32 ids, mask and token types to logits."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.model = AutoModelForSequenceClassification.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        ).eval()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> Any:
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
        ).logits


def main() -> None:
    checkpoint, folder, calibration = Path(sys.argv[1]), Path(sys.argv[3]), Path(sys.argv[4])
    ones = torch.ones((1, int(sys.argv[2])), dtype=torch.int32)
    # Positional arguments come out in another order than they went in: names keep theirs.
    sample = {"input_ids": ones * 5, "attention_mask": ones, "token_type_ids": ones * 0}
    plain = folder / "float32.tflite"
    torch.set_num_threads(1)
    litert_torch.convert(Logits(checkpoint).eval(), sample_kwargs=sample).export(str(plain))
    for name in sys.argv[5:]:
        from ai_edge_quantizer import quantizer, recipe  # type: ignore[import-not-found]

        form = quantizer.Quantizer(str(plain))
        recipes = {"dynamic": recipe.dynamic_wi8_afp32, "static": recipe.static_wi8_ai8}
        form.load_quantization_recipe(recipes[name]())
        ranges = None
        if form.need_calibration:
            rows = [value.astype(np.int32) for value in np.load(calibration).values()]
            feeds = [
                {
                    "input_ids": row,
                    "attention_mask": np.ones_like(row),
                    "token_type_ids": np.zeros_like(row),
                }
                for row in rows
            ]
            ranges = form.calibrate({"serving_default": feeds})
        form.quantize(ranges).export_model(str(folder / f"{name}.tflite"), overwrite=True)


if __name__ == "__main__":
    main()
