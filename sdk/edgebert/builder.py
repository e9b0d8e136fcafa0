"""The whole road: a model and its data in, one proven package a target out."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgebert.build_report import build_report
from edgebert.build_source import DEFAULT_NAME, Source, check_inputs, read_source, task_data
from edgebert.compression import CheckpointStep, TaskData, compress
from edgebert.conversion import artifact_answers, convert_step
from edgebert.data import Columns
from edgebert.errors import GateError, MissingExtraError, OutputError, UsageError
from edgebert.evaluation import Evaluation, evaluation_of
from edgebert.figures import Report
from edgebert.gate import gate_message
from edgebert.golden import GoldenExample
from edgebert.machine import usable_cores
from edgebert.measure import Measured, measure
from edgebert.progress import Reporter, SilentReporter
from edgebert.report import write_report
from edgebert.shipping import golden_examples, golden_tolerance, make_manifest, ship
from edgebert.stages import StageStore, default_work_folder
from edgebert.tokenizer import TextTokenizer
from edgebert_targets.base import Target, get_target, lengths_up_to, target_names

if TYPE_CHECKING:
    from edgebert.device_build import OnDevice
    from edgebert_compress.recipe import Recipe


@dataclass(frozen=True)
class BuildOptions:
    """What to build. `model`, `train` and `evaluation` are all None for the bundled home-intents.

    An embedding is not trained and has no `train`.

    `lengths`: in tokens, for LiteRT besides the longest; other targets take any length.
    `max_drop`: accepted loss of accuracy as a fraction. `max_length`: tokens; None takes what the data needs.
    `threads`: of training; None takes all cores. `device`: where the artifacts are proven, as `open_device`
    takes it; None: on this machine alone. `device_limit`: so many evaluation examples there; None: all.
    `task`: None takes what the model's head is for.
    """

    targets: tuple[str, ...]
    model: str | None = None
    train: str | None = None
    evaluation: str | None = None
    recipe: str | None = None
    max_drop: float = 0.01
    out: Path | None = None
    work: Path | None = None
    as_zip: bool = False
    force: bool = False
    seed: int = 0
    max_length: int | None = None
    lengths: tuple[int, ...] = ()
    threads: int | None = None
    new_head: bool = False
    device: str | None = None
    device_limit: int | None = None
    task: str | None = None
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True)
class TargetResult:
    """A written package and what its report says."""

    target: str
    package: Path
    report: Report


@dataclass(frozen=True)
class BuildResult:
    targets: tuple[TargetResult, ...]
    warnings: tuple[str, ...]


def build(
    model: str | Path | None = None,
    train: str | Path | None = None,
    eval: str | Path | None = None,
    targets: Sequence[str] = (),
    reporter: Reporter | None = None,
    **options: Any,
) -> BuildResult:
    """Python's `edgebert build`; further options are the other fields of BuildOptions.

    Raises GateError when accuracy fell too far (the report is written, the package is not), and the errors
    of each part.
    """
    for name in ("out", "work"):
        if options.get(name) is not None:
            options[name] = Path(options[name])
    chosen = BuildOptions(
        targets=tuple(targets),
        model=None if model is None else str(model),
        train=None if train is None else str(train),
        evaluation=None if eval is None else str(eval),
        **options,
    )
    return build_packages(chosen, reporter or SilentReporter())


def build_packages(options: BuildOptions, reporter: Reporter) -> BuildResult:
    """Run the whole road. Cheap checks come first, so that hours of training do not end in a typo."""
    targets = _check_options(options)
    check_inputs(options)
    _require_build_extra()
    if options.device is not None:
        from edgebert.device_build import check_device

        check_device(options.device, targets)
    out = options.out or Path("out") / (Path(options.model).resolve().name if options.model else DEFAULT_NAME)
    places = {target.name: _package_place(out, target, options) for target in targets}
    store = StageStore(options.work or default_work_folder())
    source = read_source(options)
    recipes = {target.name: _recipe_for(target, options, source) for target in targets}
    warnings = {target.name: sparsity_warnings(target, recipes[target.name]) for target in targets}
    for warning in (line for lines in warnings.values() for line in lines):
        reporter.warn(warning)
    data = task_data(options, source, store)
    reporter.note(
        f"{source.model.name}: {source.model.architecture}, {source.task.name}, {len(data.labels)} labels, "
        f"{len(data.train)} training and {len(data.evaluation)} evaluation examples, "
        f"texts up to {data.max_length} tokens"
    )
    _use_threads(options.threads)
    chains: dict[Recipe, list[CheckpointStep]] = {}
    results: list[TargetResult] = []
    failures: list[str] = []
    for target in targets:
        recipe = recipes[target.name]
        if recipe not in chains:
            chains[recipe] = _chain(source, data, recipe, store, options, reporter)
        steps = chains[recipe]
        tokenizer = TextTokenizer.from_folder(steps[-1].folder, data.max_length)
        right = steps[0].answers if source.task.measured_against_model else None
        evaluation = evaluation_of(source.task, data.labels, data.evaluation, tokenizer, right)
        measured = _convert_and_measure(target, steps, evaluation, tokenizer, options, store, reporter)
        notes = [*warnings[target.name], *_task_notes(source, data)]
        golden = golden_examples(target, measured.converted[-1].model, tokenizer, evaluation)
        found = _on_device(options, target, measured, golden, tokenizer, evaluation, reporter)
        judged = found.measured if found else measured
        notes += (*found.notes, *found.problems) if found else ()
        report = build_report(
            target, source.model, evaluation, data, source.names, recipe, options.seed, judged, notes
        )
        report = replace(report, device=found.figures if found else None)
        place = places[target.name]
        if not judged.verdict.passed:
            folder = out / f"{target.name}-report"
            folder.mkdir(parents=True, exist_ok=True)
            _, html = write_report(report, folder, force=True)
            problems = found.problems if found else ()
            failures.append(
                gate_message(target.name, judged.verdict, str(html), problems, source.task.metric)
            )
            continue
        # What the package says of itself does not depend on where it was tried; its report does.
        tolerance = golden_tolerance(target, source.task, golden)
        manifest = make_manifest(target, report, measured, tokenizer, data, source.model, tolerance)
        ship(place, report, manifest, measured, golden, as_zip=options.as_zip, force=options.force)
        reporter.note(f"target {target.name}: package written to {place}")
        results.append(TargetResult(target.name, place, report))
    if failures:
        raise GateError(". ".join(failures))
    return BuildResult(tuple(results), tuple(line for lines in warnings.values() for line in lines))


def _task_notes(source: Source, data: TaskData) -> list[str]:
    """What to know of how the task was measured."""
    if not source.task.whole_texts:
        return [f"texts of more than {data.max_length} tokens are read in parts (--max-length)"]
    notes = [f"texts are cut at {data.max_length} tokens (--max-length)"]
    if source.task.measured_against_model:
        notes.append(
            f"{source.task.metric} is between the vectors of the model and those of the float model, on the "
            "evaluation texts; nothing was trained, because there are no labels"
        )
    return notes


def _on_device(
    options: BuildOptions,
    target: Target,
    measured: Measured,
    golden: Sequence[GoldenExample],
    tokenizer: TextTokenizer,
    evaluation: Evaluation,
    reporter: Reporter,
) -> OnDevice | None:
    """The artifact on `options.device`; None without one."""
    if options.device is None:
        return None
    from edgebert.device_build import prove_build

    return prove_build(
        options.device, target, measured, golden, tokenizer, evaluation, options.device_limit, reporter
    )


def check_activations(target: Target, recipe: Recipe) -> None:
    """Raise UsageError for static ranges that `target` cannot run: before the training, not after it."""
    for stage in recipe.stages:
        if stage.kind == "quantize" and stage.activations == "static" and not target.static_ranges:
            raise UsageError(
                f"stage '{stage.title}' of recipe '{recipe.name}' makes static activation ranges, which"
                f" {target.name} ({target.backend}) does not run; write 'activations: dynamic' there,"
                " or leave this target out"
            )


def sparsity_warnings(target: Target, recipe: Recipe) -> list[str]:
    """One line for each pruning stage that will not make this target faster, with what would."""
    support = {row.pattern: row for row in target.support()}
    lines = []
    for stage in recipe.stages:
        if stage.kind != "prune":
            continue
        row = support.get("sparse-4-block" if stage.pattern == "4-block" else "sparse-unstructured")
        if row is not None and row.speed != "yes":
            helps = [name for name, other in support.items() if other.speed == "yes"]
            size = {"yes": "smaller", "zipped only": "smaller only when zipped", "no": "no smaller"}[row.size]
            lines.append(
                f"stage '{stage.title}' makes no model faster on {target.name} ({target.backend}) "
                f"and its file {size}; what does make it faster there: {', '.join(helps)}"
            )
    return lines


def _check_options(options: BuildOptions) -> list[Target]:
    if not options.targets:
        raise UsageError(f"no target given; add --target with one of: {', '.join(target_names())}")
    if not 0 <= options.max_drop <= 1:
        raise UsageError(
            f"--max-drop is {options.max_drop:g}; give a fraction from 0 to 1 (0.01 is one point)"
        )
    for name, value in (("--threads", options.threads), ("--max-length", options.max_length)):
        if value is not None and value < (8 if name == "--max-length" else 1):
            raise UsageError(f"{name} is {value}; give {8 if name == '--max-length' else 1} or more")
    if options.lengths and min(options.lengths) < 8:
        raise UsageError(f"--length is {min(options.lengths)}; give 8 or more")
    if options.device_limit is not None and (options.device is None or options.device_limit < 1):
        raise UsageError("--device-limit is a number of examples, 1 or more, and goes with --device")
    if not 0 <= options.seed < 1 << 32:
        raise UsageError(f"--seed is {options.seed}; give a number from 0 to 4294967295")
    return [get_target(name) for name in dict.fromkeys(options.targets)]


def _require_build_extra() -> None:
    for name in ("torch", "transformers", "safetensors", "yaml"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(
                f"building needs {name}, which is not installed; run: pip install 'edgebert[all]'"
            )


def _package_place(out: Path, target: Target, options: BuildOptions) -> Path:
    """Where the package goes, checked now rather than after the training."""
    place = out / (f"{target.name}.zip" if options.as_zip else target.name)
    if os.path.lexists(place) and not options.force:
        raise OutputError(f"'{place}' exists already; choose another --out or add --force to replace it")
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write into '{parent}'; choose another --out")
    return place


def _recipe_for(target: Target, options: BuildOptions, source: Source) -> Recipe:
    from edgebert_compress.recipe import default_recipe, load_recipe

    if source.task.measured_against_model:
        from edgebert.embedding_chain import DEFAULT_RECIPE, check_recipe

        recipe = load_recipe(options.recipe or DEFAULT_RECIPE)
        check_recipe(recipe)
        return recipe
    if options.recipe:
        recipe = load_recipe(options.recipe)
        check_activations(target, recipe)
        return recipe
    return default_recipe([target.name], source.model.layers, source.model.hidden_size)


def _chain(
    source: Source,
    data: TaskData,
    recipe: Recipe,
    store: StageStore,
    options: BuildOptions,
    reporter: Reporter,
) -> list[CheckpointStep]:
    """The teacher and what the recipe makes of it."""
    reporter.note(f"recipe '{recipe.name}': {recipe.description}")
    if source.task.measured_against_model:
        from edgebert.embedding_chain import embedding_chain

        return embedding_chain(source.model, data, recipe, store, reporter)
    return compress(source.model, data, recipe, store, options.seed, reporter, task=source.task.name)


def _convert_and_measure(
    target: Target,
    steps: Sequence[CheckpointStep],
    evaluation: Evaluation,
    tokenizer: TextTokenizer,
    options: BuildOptions,
    store: StageStore,
    reporter: Reporter,
) -> Measured:
    reporter.note(f"target {target.name}: converting {len(steps)} checkpoints")
    lengths = lengths_up_to(tokenizer.max_length, options.lengths)
    converted = [convert_step(target, step, lengths, store) for step in steps]
    threads = options.threads or usable_cores()
    answers = artifact_answers(target, converted[-1], tokenizer, evaluation, threads, store, reporter)
    return measure(
        target, converted, answers, evaluation, tokenizer, options.max_drop, store=store, reporter=reporter
    )


def _use_threads(threads: int | None) -> None:
    import torch

    torch.set_num_threads(threads or usable_cores())
