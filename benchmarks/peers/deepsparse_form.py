"""Turn a QDQ graph into the integer form that DeepSparse runs sparsely: SparseML's own exporter.

    python deepsparse_form.py QDQ.onnx MODEL.onnx

Runs in SparseML's environment, see `environments.py`. DeepSparse runs any other form densely without a word,
so this counts what became of the matrix products and fails where one of them stayed in float.
"""

import sys
from collections import Counter
from pathlib import Path

import onnx
from sparseml.exporters.onnx_to_deepsparse import ONNXToDeepsparse  # type: ignore[import-not-found]


def main() -> None:
    source, out = map(Path, sys.argv[1:])
    model = onnx.load(source)
    before = Counter(node.op_type for node in model.graph.node)
    model = ONNXToDeepsparse(inplace=True).apply(model)
    after = Counter(node.op_type for node in model.graph.node)
    products = before["MatMul"] + before["Gemm"]
    if after["MatMul"] or after["Gemm"] or after["MatMulInteger"] != products:
        sys.exit(f"{source}: {after['MatMulInteger']} of {products} matrix products became integer ones")
    onnx.save(model, out)


if __name__ == "__main__":
    main()
