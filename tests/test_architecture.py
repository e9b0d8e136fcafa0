"""Who may import whom, and what the light core must not import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "edgebert": ROOT / "sdk" / "edgebert",
    "edgebert_compress": ROOT / "compress" / "edgebert_compress",
    "edgebert_targets": ROOT / "targets" / "edgebert_targets",
}
FORBIDDEN = {
    "edgebert": set(),
    "edgebert_compress": {"edgebert", "edgebert_targets"},
    "edgebert_targets": {"edgebert", "edgebert_compress", "torch", "transformers"},
}  # fmt: skip
HEAVY = ("torch", "transformers", "onnx", "datasets", "flatbuffers", "safetensors", "yaml")


def imports(path: Path) -> set[str]:
    """Top-level names that a module imports anywhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package: str) -> None:
    modules = list(PACKAGES[package].rglob("*.py"))
    assert modules
    for path in modules:
        assert not imports(path) & FORBIDDEN[package], path


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_cycles_at_import_time(package: str) -> None:
    graph = {}
    for path in PACKAGES[package].rglob("*.py"):
        name = ".".join((package, *path.relative_to(PACKAGES[package]).with_suffix("").parts))
        tree = ast.parse(path.read_text())
        graph[name.removesuffix(".__init__")] = {
            node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module
        }

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " → ".join((*trail, name))
        for other in sorted(graph.get(name, set()) & set(graph)):
            visit(other, (*trail, name))

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize(
    "module",
    ["edgebert", "edgebert.pipeline", "edgebert.validate", "edgebert.cli.run", "edgebert.cli.validate",
     "edgebert.cli.bench", "edgebert.cli.inspect", "edgebert.cli.targets", "edgebert.cli.doctor"],
)  # fmt: skip
def test_running_a_package_needs_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
