"""One process of a Trainer with oBERT in it, started by torchrun or alone; writes its weights.

python integration_worker.py CHECKPOINT OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgebert_compress.distributed import world
from edgebert_compress.integration import ObertCallback
from tests.compress.test_integration import SMALL, trainer, weights


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    callback = ObertCallback(sparsity=0.6, steps=1, pruning_share=0.0, **SMALL)
    own = trainer(source, out / "run", callback, max_steps=2)
    own.train()
    rank, size = world()
    save_file(weights(own.model), out / f"{rank}-of-{size}.safetensors")


if __name__ == "__main__":
    main()
