"""Virtual environments of the engines that EdgeBERT is measured against: they fit in none with ours.

    python benchmarks/peers/environments.py FOLDER [openvino deepsparse sparseml]

Makes FOLDER/NAME for each, with pip, about 2 GB in all. What is there already is kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

# The last DeepSparse that installs: 1.9.0 is a notice of its end of life. SparseML's exporter goes with it.
PACKAGES = {
    "openvino": ("openvino==2026.4.1", "nncf==3.4.0", "onnx"),
    "deepsparse": ("deepsparse==1.8.0", "numpy<2"),
    "sparseml": ("sparseml==1.8.0", "numpy<2"),
}
IMPORTS = {
    "openvino": "import openvino, nncf",
    "deepsparse": "import deepsparse",
    "sparseml": "import sparseml.exporters.onnx_to_deepsparse",
}


def python_of(folder: Path, name: str) -> Path:
    """The interpreter of the environment `name` under `folder`."""
    return folder / name / "bin" / "python"


def works(folder: Path, name: str) -> bool:
    """Whether the environment is there and its packages import."""
    python = python_of(folder, name)
    return (
        python.is_file()
        and subprocess.run([python, "-c", IMPORTS[name]], check=False, capture_output=True).returncode == 0
    )


def make(folder: Path, name: str) -> None:
    """Build one environment. Raises CalledProcessError when pip fails or the packages do not import."""
    if works(folder, name):
        return
    venv.create(folder / name, with_pip=True, clear=True)
    python = python_of(folder, name)
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--prefer-binary", *PACKAGES[name]], check=True
    )
    subprocess.run([python, "-c", IMPORTS[name]], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[*PACKAGES, []], help="default: all")
    options = parser.parse_args()
    for name in options.names or PACKAGES:
        make(options.folder, name)
        print(f"{name}: {python_of(options.folder, name)}", file=sys.stderr)


if __name__ == "__main__":
    main()
