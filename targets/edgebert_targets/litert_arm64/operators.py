"""Which operators our files hold, and from which version on. Needs no library."""

# Every operator our writer uses; XNNPACK takes all of them in float but CAST and EMBEDDING_LOOKUP.
ALLOWED_OPS = frozenset(
    ["ADD", "BATCH_MATMUL", "CAST", "DIV", "EMBEDDING_LOOKUP", "FULLY_CONNECTED", "GELU", "MAXIMUM",
     "MEAN", "MUL", "RELU", "RESHAPE", "RSQRT", "SLICE", "SOFTMAX", "SUB", "TANH", "TRANSPOSE"]
)  # fmt: skip

# Of operators with INT8 weights and float inputs. Runtimes before 2.15 run per-channel layers and return
# zeros: version 12 makes them refuse.
INT8_VERSIONS = {"FULLY_CONNECTED": 12, "EMBEDDING_LOOKUP": 4}
