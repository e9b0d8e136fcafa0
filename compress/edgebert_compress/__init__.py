"""Compression algorithms on torch modules: oBERT pruning, layer dropping, distillation, INT8 training."""
