"""Quantise an ONNX BERT to INT8 with NNCF: runs in OpenVINO's environment, see `environments.py`.

    python openvino_int8.py MODEL.onnx IDS.npz MODEL.xml

IDS.npz holds the calibration's token ids, one int64 array [1, length] each.
"""

import sys
from pathlib import Path

import nncf  # type: ignore[import-not-found]
import numpy as np
import openvino as ov  # type: ignore[import-not-found]


def main() -> None:
    source, calibration, out = map(Path, sys.argv[1:])
    inputs = [
        {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        for ids in np.load(calibration).values()
    ]
    model = ov.Core().read_model(source)
    quantized = nncf.quantize(
        model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs)
    )
    ov.save_model(quantized, out, compress_to_fp16=False)


if __name__ == "__main__":
    main()
