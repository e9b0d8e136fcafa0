"""What the documents say is what the code does: commands run, tables are the code's own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edgebert import errors
from edgebert.cli.dispatch import cli
from edgebert.cli.targets import render_support_markdown
from edgebert_compress.recipe import builtin_recipes, load_recipe

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "targets" / "edgebert_targets" / "int8_sparse" / "engine"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of all `sh` blocks, comments cut, continued lines joined."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                yield words


ALL_COMMANDS = [(path.name, words) for path in DOCUMENTS for words in commands(path.read_text())]


@pytest.mark.parametrize(("document", "words"), ALL_COMMANDS, ids=lambda value: str(value)[:60])
def test_every_command_is_one_that_exists(document: str, words: list[str]) -> None:
    while "=" in words[0]:  # environment variables before the command
        words = words[1:]
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    elif words[0] == "edgebert":
        command = cli.get_command(click.Context(cli), words[1])
        assert command is not None, words
        command.make_context(words[1], words[2:])
    elif words[:2] == ["python", "-m"]:
        assert words[2].startswith("edgebert.")
    elif words[0] == "python":
        done = subprocess.run(
            [sys.executable, ROOT / words[1], "--help"], capture_output=True, text=True, check=True
        )
        for option in (word for word in words[2:] if word.startswith("--")):
            assert option in done.stdout
    elif words[0] == "cmake":
        settings = (ENGINE / "CMakeLists.txt").read_text()
        if words[1] == "-S":
            assert (ROOT / words[2] / "CMakeLists.txt").is_file()
        else:  # in a folder that another command of the document made
            assert words[1] == "--build" and any(w[-1] == words[2] or words[2] in w for _, w in ALL_COMMANDS)
        for option in re.findall(r"-D(EDGEBERT_\w+)", " ".join(words)):
            assert option in settings
    elif words[0] == "cc":
        assert [word for word in words if word.endswith(".c") and (ROOT / word).is_file()]
    elif words[0].startswith("build/"):
        name = Path(words[0]).name
        assert [
            path for path in ENGINE.rglob(f"{name}.c*") if path.parent.name in ("examples", "fuzz", "tests")
        ]
    else:
        raise AssertionError(f"{document}: a command of a kind that no test runs: {words}")


def test_the_readme_has_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert [words for words in commands(text) if words[0] == "make"] == [["make", "demo"], ["make", "test"]]


def test_the_support_matrix_is_the_code_s() -> None:
    assert render_support_markdown() in (ROOT / "README.md").read_text()


def test_the_recipes_in_the_documents_are_valid(tmp_path: Path) -> None:
    found = {
        path.name: re.findall(r"<!-- recipe -->\n```yaml\n(.*?)```", path.read_text(), re.DOTALL)
        for path in DOCUMENTS
    }
    kinds = {}
    for name, texts in found.items():
        for text in texts:
            (tmp_path / "recipe.yaml").write_text(text)
            kinds[name] = [stage.kind for stage in load_recipe(str(tmp_path / "recipe.yaml")).stages]
    assert kinds == {
        "build.md": ["drop-layers", "prune", "quantize"],
        "compress.md": ["prune", "quantize"],
        "recipes.md": ["drop-layers", "prune", "quantize"],
    }


def test_every_built_in_recipe_is_described() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text()
    for name in builtin_recipes():
        assert f"`{name}`" in text


def test_every_exit_code_is_described() -> None:
    text = (ROOT / "docs" / "build.md").read_text().split("| code | what |")[1]
    described = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", text, re.M) for code in row.split(",")}
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert described == codes - {errors.EXIT_OK, errors.EXIT_BUG}


def test_links_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


@pytest.mark.slow
def test_the_tour_of_the_readme_works_as_written(tmp_path: Path) -> None:
    """The default build and every verb, as a new user types them."""
    tour = (ROOT / "README.md").read_text().split("<!-- tour -->")[1]
    block = tour[: tour.index("```python")]
    ran = 0
    for words in commands(block):
        assert words[0] == "edgebert"
        done = subprocess.run(
            [sys.executable, "-m", "edgebert.cli", *words[1:]],
            cwd=tmp_path,
            env={**os.environ, "EDGEBERT_WORK": str(tmp_path / "work")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        assert done.stdout
        ran += 1
    assert ran >= 6
    python = re.search(r"```python\n(.*?)```", tour, re.DOTALL)
    assert python
    done = subprocess.run(
        [sys.executable, "-c", python[1]], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "alarm_set" in done.stdout
    assert "out_of_scope" in done.stdout
    for target in ("x86", "arm64"):
        report = json.loads((tmp_path / "out/home-intents" / target / "report.json").read_text())
        assert report["validation"]["passed"]
        assert report["validation"]["teacher"] >= 0.9
        assert report["validation"]["agreement_with_pytorch"] >= 0.995
        assert report["bench"][0]["baseline"] is not None
