"""Which operators our files hold, and from which version on. Needs no library."""

# Every operator our writer uses; XNNPACK takes all of them but CAST and EMBEDDING_LOOKUP.
ALLOWED_OPS = frozenset(
    ["ADD", "BATCH_MATMUL", "CAST", "DEQUANTIZE", "DIV", "EMBEDDING_LOOKUP", "FULLY_CONNECTED", "GELU",
     "MAXIMUM", "MEAN", "MUL", "QUANTIZE", "RELU", "RESHAPE", "RSQRT", "SLICE", "SOFTMAX", "SUB", "TANH",
     "TRANSPOSE"]
)  # fmt: skip

# Of operators with INT8 inputs or weights. Runtimes before 2.15 run per-channel layers with float inputs and
# return zeros: version 12 makes them refuse.
INT8_VERSIONS = {"FULLY_CONNECTED": 12, "EMBEDDING_LOOKUP": 4, "DEQUANTIZE": 2}
