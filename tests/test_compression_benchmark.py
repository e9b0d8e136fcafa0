"""The compression benchmark: its cells and recipes, its results file, its tables and its picture."""

from __future__ import annotations

import json
import re
import statistics
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.factories import LABELS, make_checkpoint

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import compression  # noqa: E402
import compression_compound as compound  # noqa: E402
import compression_gradual as gradual  # noqa: E402
from compression_cells import Cell, Line, agrees, read_lines, recipe_hash, unfinished, write_line  # noqa: E402
from compression_picture import HEIGHT, LEFT, PANEL, draw  # noqa: E402
from compression_tables import (  # noqa: E402
    MISSING,
    compound_table,
    gradual_table,
    of_dampening,
    of_gradients,
    oneshot_table,
    read_oneshot,
    shown,
)
from edgebert.progress import SilentReporter  # noqa: E402
from edgebert_compress.recipe import DropLayersStage, PruneStage, QuantizeStage  # noqa: E402

TASKS = ("clinc150", "sst2")
ROWS = 15000


def cell(**changes: Any) -> Cell:
    return replace(gradual.cells(["clinc150"], [0])[0], **changes)


def line(made: Cell, accuracy: float, precision: str = "highest") -> Line:
    settings = {"stages": [{"training": {"matmul_precision": precision}}]}
    return Line(made, "r", "t", {"accuracy": accuracy, "teacher": 0.967}, settings, {})


def oneshot_row(method: str, share: float, accuracy: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    row = {
        "task": "sst2",
        "pattern": "4-block",
        "method": method,
        "update": "summed" if method == "obert" else "",
        "recomputations": 1 if method == "obert" else 0,
        "gradients": 256 if method == "obert" else 0,
        "sparsity": share,
        "seed": seed,
        "dampening": 1e-7 if method == "obert" else 0.0,
        "accuracy": accuracy,
    }
    return row | changes


def test_the_gradual_cells_are_all_there_once_and_the_telling_ones_come_first() -> None:
    found = gradual.cells(TASKS, [0, 1, 2])
    assert len(found) == len(set(found)) == 2 * 3 * 2 * 2 * 6
    first = found[0]
    assert (first.task, first.seed, first.method, first.pattern, first.sparsity) == (
        "clinc150", 0, "GMP*", "unstructured", 0.9,
    )  # fmt: skip
    assert found[1] == replace(first, method="oBERT")
    assert [c.task for c in found[:16]] == ["clinc150"] * 8 + ["sst2"] * 8
    assert {(c.seed, c.method) for c in found[:16]} == {(0, "GMP*"), (0, "oBERT")}
    assert {c.method for c in found[-48:]} == {"oBERT r=4", "oBERT r=16"}


def test_gmp_star_differs_from_obert_in_the_ranking_alone() -> None:
    ours, base, joint, again = (
        gradual.recipe(cell(method=method), gradual.Budget(), ROWS).stages[0]
        for method in ("oBERT", "GMP*", "oBERT joint", "oBERT r=16")
    )
    assert isinstance(ours, PruneStage)
    assert ours.method == "obert"
    assert replace(ours, method="magnitude") == base
    assert replace(ours, update="joint") == joint
    assert replace(ours, recomputations=16) == again


def test_plain_magnitude_ranks_each_tensor_and_learns_from_the_labels() -> None:
    (stage,) = gradual.recipe(cell(method="magnitude"), gradual.Budget(), ROWS).stages
    assert isinstance(stage, PruneStage)
    assert (stage.method, stage.ranking, stage.training.schedule) == ("magnitude", "tensor", "linear")
    assert stage.distillation.hardness == 0


@pytest.mark.parametrize("method", gradual.METHODS)
@pytest.mark.parametrize(("rows", "scale"), [(15000, 1.0), (6920, 1.0), (6920, 0.1), (97, 0.001)])
def test_every_method_trains_equally_long_on_any_amount_of_data(method: str, rows: int, scale: float) -> None:
    budget = gradual.Budget()
    (stage,) = gradual.recipe(cell(method=method, epochs_scale=scale), budget, rows).stages
    steps = stage.training.epochs * -(-rows // budget.batch_size)  # as the trainer counts them
    assert max(1, round(steps)) == max(1, round(scale * budget.steps))


def test_a_compound_cell_runs_the_stages_that_it_names() -> None:
    found = compound.cells(TASKS, [0])
    assert len(found) == len(set(found)) == 2 * 2 * 8
    for one in found:
        stages = compound.recipe(one, compound.BUDGET, ROWS).stages
        kinds = {type(stage) for stage in stages}
        assert (DropLayersStage in kinds) == (one.layers == "half")
        assert (PruneStage in kinds) == (one.sparsity > 0) == (one.pattern != "dense")
        assert (QuantizeStage in kinds) == one.int8
    teacher = next(c for c in found if c.layers == "all" and not c.sparsity and not c.int8)
    assert all(stage.training.epochs == 0 for stage in compound.recipe(teacher, compound.BUDGET, 9).stages)


def test_int8_goes_on_from_the_same_pruned_model() -> None:
    pruned = cell(part="compound", method="oBERT", pattern="4-block", layers="half")
    small = compound.recipe(replace(pruned, int8=True), compound.BUDGET, ROWS)
    assert small.stages[:-1] == compound.recipe(pruned, compound.BUDGET, ROWS).stages


def test_lines_survive_a_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    lines = [line(made, 0.5) for made in gradual.cells(["sst2"], [0])[:3]]
    write_line(path, lines[0])
    with path.open("a") as file:
        file.write('{"cell": {"part": "gra')
    write_line(path, lines[1])
    write_line(path, lines[2])
    assert read_lines(path) == lines
    assert read_lines(tmp_path / "none.jsonl") == []


def test_a_cell_is_finished_only_with_the_same_settings_and_teacher() -> None:
    made = cell()
    recipe = gradual.recipe(made, gradual.Budget(), ROWS)
    stages = recipe.as_dict()["stages"]
    done = Line(made, recipe_hash(recipe), "t", {}, {"stages": stages}, {})

    def left(done: Line, teacher: str = "t") -> int:
        return len(list(unfinished(iter([(made, recipe)]), [done], {made.task: teacher})))

    assert left(done) == 0
    assert left(done, "another") == 1
    assert left(replace(done, cell=cell(seed=1))) == 1
    slower = gradual.recipe(made, replace(gradual.Budget(), learning_rate=1e-5), ROWS)
    assert left(replace(done, settings=slower.as_dict())) == 1
    assert left(replace(done, settings={"stages": [*stages, *stages]})) == 1


def test_a_setting_that_recipes_gain_later_does_not_undo_a_finished_cell() -> None:
    now = [{"steps": 7, "training": {"epochs": 4.0, "schedule": "auto"}}]
    assert agrees([{"steps": 7, "training": {"epochs": 4.0}}], now)
    assert not agrees([{"steps": 7, "training": {"epochs": 4.5}}], now)
    assert not agrees([{"steps": 7, "gone": 1}], now)


def test_a_figure_shows_mean_spread_and_number_of_seeds() -> None:
    values = [90.0, 91.0, 95.0]
    assert shown(values) == f"92.00 ± {statistics.stdev(values):.2f} (3)"
    assert shown([90.0]) == "90.00 (1)"
    assert shown([]) == MISSING


def test_the_gradual_table_takes_one_length_and_the_last_line_of_a_cell() -> None:
    made = cell(method="oBERT", pattern="4-block")
    lines = [
        line(made, 0.1),
        line(made, 0.94),
        line(replace(made, seed=1), 0.95),
        line(replace(made, epochs_scale=0.1), 0.2),
    ]
    header, _, *rows = gradual_table(lines).splitlines()
    assert header == "| task | teacher | sparsity | pattern | precision | oBERT | oBERT − GMP* |"
    assert rows == ["| CLINC150 | 96.70 | 90 % | 4-block | `highest` | 94.50 ± 0.71 (2) | – |"]
    assert "20.00 (1)" in gradual_table(lines, 0.1)


def test_precisions_of_training_are_never_put_together() -> None:
    lines = [
        line(cell(method="oBERT"), 0.95, "medium"),
        line(cell(method="GMP*"), 0.93, "medium"),
        line(cell(method="GMP*"), 0.9, "bfloat16"),
        line(cell(method="oBERT", seed=1), 0.91, "bfloat16"),
    ]
    medium, half = gradual_table(lines).splitlines()[2:]
    assert medium.endswith("| `medium` | 93.00 (1) | 95.00 (1) | 2.00 (1) |")
    assert half.endswith("| `bfloat16` | 90.00 (1) | 91.00 (1) | – |")
    old = replace(lines[0], settings={"stages": [{"training": {"epochs": 1.0}}]})
    assert "| `highest` |" in gradual_table([old])


def test_a_margin_compares_the_seeds_that_both_methods_have() -> None:
    lines = [
        line(cell(method=method, seed=seed), accuracy)
        for method, accuracies in (("oBERT", (0.95, 0.93, 0.99)), ("GMP*", (0.94, 0.90)))
        for seed, accuracy in enumerate(accuracies)
    ]
    (row,) = gradual_table(lines).splitlines()[2:]
    assert row.endswith("| 92.00 ± 2.83 (2) | 95.67 ± 3.06 (3) | 2.00 ± 1.41 (2) |")


def test_the_compound_table_says_how_far_below_the_teacher() -> None:
    base = cell(part="compound", method="oBERT", pattern="4-block", sparsity=0.8)
    dense = replace(base, pattern="dense", sparsity=0.0)
    lines = [line(replace(base, int8=True), 0.957), line(dense, 0.967)]
    assert compound_table(lines).splitlines()[2:] == [
        "| CLINC150 | all | 96.70 | 0 % | 96.70 (1), drop 0.00 | 96.70 (1), drop 0.00 | – |",
        "| CLINC150 | all | 96.70 | 80 % | – | – | 95.70 (1), drop 1.00 |",
    ]


def test_the_one_shot_table_has_a_row_a_method_and_dampening() -> None:
    rows = [
        oneshot_row("dense", 0.0, 0.874),
        oneshot_row("magnitude", 0.7, 0.6),
        oneshot_row("obert", 0.7, 0.8),
        oneshot_row("obert", 0.7, 0.82, seed=1),
        oneshot_row("obert", 0.5, 0.85, dampening=1e-6),
        oneshot_row("obert", 0.5, 0.75, dampening=1e-6, relative=True),
        oneshot_row("obert", 0.7, 0.7, gradients=64),
    ]
    lines = oneshot_table(rows).splitlines()
    assert lines[0].endswith("| 50 % | 70 % |")
    assert lines[2] == "| SST-2 (dense 87.40) | 4-block | magnitude | – | – | 60.00 (1) |"
    assert lines[3].endswith("| oBERT r = 1, m = 64, summed | 1e-07 | – | 70.00 (1) |")
    assert lines[4].endswith("| oBERT r = 1, m = 256, summed | 1e-07 | – | 81.00 ± 1.41 (2) |")
    assert lines[5].endswith("| 1e-06 | 85.00 (1) | – |")
    assert lines[6].endswith("| 1e-06 g² | 75.00 (1) | – |")


def test_one_dampening_may_be_picked_and_magnitude_stays() -> None:
    rows = [
        oneshot_row("dense", 0.0, 0.874),
        oneshot_row("magnitude", 0.7, 0.6),
        oneshot_row("obert", 0.5, 0.85, dampening=1e-3),
        oneshot_row("obert", 0.5, 0.75, dampening=1e-3, relative=True),
    ]
    assert [row["accuracy"] for row in of_dampening(rows, 1e-3, True)] == [0.874, 0.6, 0.75]
    assert [row["accuracy"] for row in of_dampening(rows, 1e-6, False)] == [0.874, 0.6]


def test_one_number_of_gradients_may_be_picked_and_magnitude_stays() -> None:
    rows = [oneshot_row("magnitude", 0.7, 0.6), oneshot_row("obert", 0.7, 0.8)]
    assert of_gradients([*rows, oneshot_row("obert", 0.7, 0.9, gradients=64)], 256) == rows


def test_tables_and_picture_of_the_documents_are_those_of_the_results() -> None:
    results, docs = BENCHMARKS / "results", ROOT / "docs"
    lines = read_lines(results / "compression.jsonl")
    rows = of_dampening(read_oneshot(results / "compression_oneshot.json"), 1e-3, True)
    text = (docs / "benchmarks.md").read_text(encoding="utf-8")
    for table in (oneshot_table(rows), gradual_table(lines, 0.5), compound_table(lines, 0.5)):
        assert table + "\n" in text
    assert draw(of_gradients(rows, 256)) == (docs / "oneshot.svg").read_text(encoding="utf-8")


def test_the_picture_places_means_and_spreads() -> None:
    rows = [
        oneshot_row("dense", 0.0, 0.9),
        oneshot_row("magnitude", 0.5, 0.75),
        oneshot_row("magnitude", 0.9, 0.25),
        oneshot_row("obert", 0.9, 0.4),
        oneshot_row("obert", 0.9, 0.6, seed=1),
    ]
    root = ElementTree.fromstring(draw(rows))
    name = "{http://www.w3.org/2000/svg}"
    dense = next(one for one in root.iter(f"{name}line") if one.get("class") == "dense")
    unit = HEIGHT / 80  # a percentage point: the lowest mean is 25, so the axis begins at 20
    top = float(dense.get("y1", "")) - 10 * unit
    points = sorted(
        (float(one.get("cx", "")), float(one.get("cy", "")), one.get("class"))
        for one in root.iter(f"{name}circle")
        if one.get("r") == "3.2"
    )
    left, right = LEFT + 14, LEFT + PANEL - 14
    wanted = [(left, 25, "k0"), (right, 50, "k1"), (right, 75, "k0")]
    for (x, y, kind), (where, below, expected) in zip(points, wanted, strict=True):
        assert (x, kind) == (where, expected)
        assert y == pytest.approx(top + below * unit, abs=0.11)
    (bar,) = (one.get("d", "") for one in root.iter(f"{name}path") if (one.get("class") or "")[0] == "e")
    reach = re.fullmatch(r"M[\d.]+ [\d.]+v([\d.]+)", bar)
    assert reach and float(reach[1]) == pytest.approx(2 * statistics.stdev([40, 60]) * unit, abs=0.1)


def test_the_picture_keeps_dampenings_apart() -> None:
    one = [oneshot_row("obert", share, 0.8) for share in (0.5, 0.7)]
    other = [oneshot_row("obert", share, 0.6, dampening=0.01, relative=True) for share in (0.5, 0.7)]

    def legend(rows: list[dict[str, Any]]) -> list[str]:
        found = ElementTree.fromstring(draw(rows)).iter("{http://www.w3.org/2000/svg}text")
        return [text.text or "" for text in found if (text.text or "").startswith("oBERT")]

    assert legend([*one, *other]) == [
        f"oBERT r = 1, m = 256, summed, λ {value}" for value in ("0.01 g²", "1e-07")
    ]
    elsewhere = [{**row, "pattern": "unstructured"} for row in other]  # one a panel needs no telling
    assert legend([*one, *elsewhere]) == ["oBERT r = 1, m = 256, summed"]


def test_the_picture_escapes_what_it_is_given() -> None:
    rows = [
        oneshot_row("magnitude", 0.5, 0.5, task="<a&b>"),
        oneshot_row("magnitude", 0.7, 0.4, task="<a&b>"),
    ]
    root = ElementTree.fromstring(draw(rows))
    assert any(text.text == "<a&b>, 4-block" for text in root.iter("{http://www.w3.org/2000/svg}text"))


def test_the_one_shot_part_hands_on_teachers_and_settings() -> None:
    given = compression.parser().parse_args(
        ["--part", "oneshot", "--tasks", "a", "b", "--teacher", "a=x", "--model", "m", "--data", "d",
         "--seeds", "4", "--dampening", "1e-6"]
    )  # fmt: skip
    command = compression.oneshot_command(given)
    text = " ".join(command[2:])
    assert "--teacher a=x --teacher b=m" in text and "--seeds 4" in text and "--dampening 1e-06" in text
    assert "--relative" not in text
    given = compression.parser().parse_args(
        ["--part", "oneshot", "--tasks", "a", "--teacher", "a=x", "--data", "d", "--patterns", "4-block",
         "--relative-dampening", "0.01", "--matmul-precision", "medium", "--sparsities", "0.7", "0.9"]
    )  # fmt: skip
    text = " ".join(compression.oneshot_command(given))
    assert "--dampening 0.01" in text and "--relative" in text and "--matmul-precision medium" in text
    assert "--patterns 4-block" in text and "--sparsities 0.7 0.9" in text
    with pytest.raises(SystemExit, match="no teacher for 'b'"):
        compression.teachers(compression.parser().parse_args(["--part", "gradual", "--tasks", "b"]))


@pytest.mark.parametrize(
    ("option", "value"), [("--methods", "oBERT r=8"), ("--patterns", "8-block"), ("--sparsities", "0.5")]
)
def test_what_no_cell_has_is_refused(option: str, value: str) -> None:
    given = compression.parser().parse_args(["--part", "gradual", "--tasks", "a", option, value])
    with pytest.raises(SystemExit, match=f"the gradual part has no .*'{value}', only"):
        compression.wanted(given)


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Of a gradual part of four tiny cells."""
    model = make_checkpoint(tmp_path / "model")
    folder = tmp_path / "data" / "lights"
    folder.mkdir(parents=True)
    words = {"light": "turn on the light", "music": "play my song", "timer": "set a timer"}
    rows = [{"text": f"please {words[label]}", "label": label} for label in LABELS * 6]
    for split in ("train", "dev"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        "--part", "gradual", "--tasks", "lights", "--seeds", "0", "--teacher", f"lights={model}",
        "--data", str(tmp_path / "data"), "--results", str(tmp_path / "lines.jsonl"),
        "--work", str(tmp_path / "work"), "--epochs-scale", "0.005", "--methods", "oBERT",
    ]  # fmt: skip


@pytest.mark.slow
def test_cells_run_once_and_leave_a_line_each(arguments: list[str]) -> None:
    given = compression.parser().parse_args([*arguments, "--gradients", "4", "--dampening", "1e-6"])
    compression.run(given, SilentReporter())
    lines = read_lines(given.results)
    assert {(one.cell.pattern, one.cell.sparsity) for one in lines} == {
        (pattern, share) for pattern in gradual.PATTERNS for share in gradual.SPARSITIES
    }
    for one in lines:
        assert one.figures["zeros"] == pytest.approx(one.cell.sparsity, abs=0.01)
        assert one.figures["steps"] == 9
        assert 0 <= one.figures["agreement"] <= 1
        assert one.settings["stages"][0]["dampening"] == 1e-6
    before = given.results.read_bytes()
    compression.run(given, SilentReporter())
    assert given.results.read_bytes() == before
    assert "oBERT" in compression.tables(given)


@pytest.mark.slow
def test_a_cell_that_cannot_be_trained_is_told_of_and_the_others_go_on(arguments: list[str]) -> None:
    given = compression.parser().parse_args([*arguments, "--gradients", "4", "--dampening", "1e-30"])
    reporter = SilentReporter()
    compression.run(given, reporter)
    assert len(reporter.warnings) == 4
    assert all("blows up at dampening 1e-30" in warning for warning in reporter.warnings)
    assert read_lines(given.results) == []
