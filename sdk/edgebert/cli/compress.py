"""`edgebert compress`: from a model, a recipe and data to a compressed Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgebert.cli.console import console_reporter
from edgebert.cli.output import column_options, json_option, megabytes, percent, print_json, print_table
from edgebert.compress_plan import CompressOptions, parse_memory, prepare
from edgebert.data import Columns
from edgebert.progress import clock_text
from edgebert.report.compression import CompressionReport
from edgebert.tasks.base import TASKS

COLUMNS = ("stage", "", "zeros", "layers", "steps", "took")


def result_rows(report: CompressionReport) -> list[tuple[str, ...]]:
    """A line a stage: the metric, the zeros, the layers."""
    return [
        (
            stage.name,
            f"{stage.value:.2%}",
            "" if stage.sparsity is None else percent(stage.sparsity),
            "" if stage.layers is None else str(stage.layers),
            f"{stage.steps}",
            clock_text(stage.seconds),
        )
        for stage in report.stages
    ]


def memory_text(size: int) -> str:
    """ "1.25 GiB", "70 MiB"."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{-(-size >> 20)} MiB"


@click.command()
@click.option("--model", required=True, help="Folder or hub id of a Hugging Face encoder.")
@click.option("--recipe", help="Built-in recipe (see 'edgebert recipes'), or a YAML file.")
@click.option(
    "--fast", type=float, is_flag=False, flag_value=0.75, metavar="[SHARE]",
    help="Instead of a recipe: prune heads and FFN units to this share of the work (0.75) without training.",
)  # fmt: skip
@click.option("--train", required=True, help="Training data in the task's own form; see docs/compress.md.")
@click.option("--eval", "evaluation", required=True, help="Evaluation data, same form.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--task", type=click.Choice(list(TASKS)), default="text-classification", show_default=True,
    help="What the model is for.",
)  # fmt: skip
@click.option(
    "--teacher", type=click.Path(path_type=Path),
    help="Folder of the model to learn from. Default: the model before compression.",
)  # fmt: skip
@click.option("--memory", help="Memory for pruning besides the model, such as 8GiB. Default: what is free.")
@click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder that keeps finished stages.")
@click.option("--threads", type=int, help="Threads for training. Default: all cores.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to train."
)
@click.option("--max-length", type=int, help="Cut texts at this many tokens. Default: what the data needs.")
@click.option("--new-head", is_flag=True, help="Ignore the model's head and train a new one.")
@click.option("--dry-run", is_flag=True, help="Check recipe, model and data, print the plan and stop.")
@click.option("--force", is_flag=True, help="Replace the folder --out if it exists.")
@column_options
@json_option
def command(
    text_column: str,
    pair_column: str,
    label_column: str,
    as_json: bool,
    dry_run: bool,
    memory: str | None,
    **given: Any,
) -> None:
    """Compress a model with a recipe; the result loads with transformers and keeps its zeros."""
    options = CompressOptions(
        columns=Columns(text_column, pair_column, label_column),
        memory=None if memory is None else parse_memory(memory),
        **given,
    )
    if dry_run:
        _print_plan(options, as_json)
        return
    from edgebert.compress_run import compress_model, result_dict

    with console_reporter() as reporter:
        result = compress_model(options, reporter)
    if as_json:
        print_json(result_dict(result))
        return
    report = result.report
    print_table(
        "Compressed", (COLUMNS[0], report.metric, *COLUMNS[2:]), result_rows(report), right=(1, 2, 3, 4, 5)
    )
    click.echo(
        f"{result.folder}: {megabytes(report.size_bytes)} of weights "
        f"(report: {result.folder / 'report.html'})"
    )


def _print_plan(options: CompressOptions, as_json: bool) -> None:
    from edgebert.compress_estimate import make_plan, plan_lines
    from edgebert.compress_run import use_threads

    prepared = prepare(options)
    use_threads(options.threads)
    plan = make_plan(prepared, options)
    if as_json:
        print_json(plan.as_dict())
        return
    for line in plan_lines(plan, clock_text, memory_text):
        click.echo(line)
    for note in plan.notes:
        click.echo(f"note: {note}")
