"""Packages that tag, answer and embed: built, opened, proven and asked on every target."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgebert
from edgebert import errors
from edgebert.builder import BuildOptions, BuildResult, build_packages
from edgebert.cli.dispatch import run
from edgebert.errors import DataError, UsageError
from edgebert.figures import BenchFigures, Latency
from edgebert.measure import StageSpeed
from edgebert.models.base import METHODS
from edgebert.progress import SilentReporter
from edgebert.tasks.package import get_package_task
from tests.sdk.task_builds import LONG, TAGS, TASKS, make_task_model, torch_answers, write_rows

pytestmark = pytest.mark.slow

TARGETS = ("x86", "arm64", "int8-sparse")
LENGTH = 32
ONE_STAGE = """
name: post
stages:
  - kind: quantize
    attention: int8
    training: {epochs: 0}
"""


SPEED = Latency(1, 1, 1, 1, 1000, 1, 1, LENGTH, 1, 1, 1, (1.0,))


@pytest.fixture(scope="module", autouse=True)
def made_up_speeds() -> Iterator[None]:
    """Builds here measure no time: what they measure of it, no test looks at, and it takes minutes."""

    def time_stages(target, converted, *rest):  # type: ignore[no-untyped-def]
        stages = tuple(StageSpeed(1.0, None) for _ in converted)
        return stages, (BenchFigures(SPEED, None, None, "made up", ""),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgebert.measure.time_stages", time_stages)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "post.yaml").write_text(ONE_STAGE)
    for task in TASKS:
        make_task_model(folder / task, task)
        write_rows(folder / f"{task}-train.jsonl", task, 24, 0)
        write_rows(folder / f"{task}-eval.jsonl", task, 30, 1)
    return folder


def options(source: Path, task: str) -> BuildOptions:
    return BuildOptions(
        targets=TARGETS,
        model=str(source / task),
        train=None if task == "embedding" else str(source / f"{task}-train.jsonl"),
        evaluation=str(source / f"{task}-eval.jsonl"),
        recipe=str(source / "post.yaml"),
        max_drop=1.0,
        out=source / "out" / task,
        work=source / "work",
        max_length=LENGTH,
        threads=1,
    )


@pytest.fixture(scope="module")
def built(source: Path) -> dict[str, BuildResult]:
    return {task: build_packages(options(source, task), SilentReporter()) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_packages_of_every_target_agree_with_the_compressed_model(
    built: dict[str, BuildResult], task: str
) -> None:
    """The task was not given: the head, or the folder of sentence-transformers, says it."""
    for result in built[task].targets:
        checked = result.report.validation
        assert result.report.task == task and checked.metric == get_package_task(task).metric
        assert checked.agreement_with_pytorch >= 0.6  # a random model decides by a hair
        assert abs(checked.artifact - checked.compressed_pytorch) <= 0.1
        with edgebert.load(result.package) as model:
            assert model.manifest.task == task and len(model.golden()) == 24
        validation = edgebert.validate_package(result.package, [])
        assert validation.passed and validation.golden.examples == 24
        assert (validation.figures is not None) == (task == "embedding")


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "electra"])
@pytest.mark.parametrize("task", TASKS)
def test_the_float_package_answers_as_pytorch(tmp_path: Path, task: str, architecture: str) -> None:
    """The oracle is the model of transformers, run row by row on the rows that the package makes."""
    from edgebert.inference import row_answers
    from edgebert.tokenizer import TextTokenizer
    from edgebert_targets.base import ConvertOptions, SessionOptions, get_target
    from edgebert_targets.encoder import load_encoder_spec

    folder = make_task_model(tmp_path / "model", task, architecture)
    kind = get_package_task(task)
    examples = kind.load(str(write_rows(tmp_path / "eval.jsonl", task, 8, 2)), edgebert_columns(), "eval")
    tokenizer = TextTokenizer.from_folder(folder, LENGTH)
    rows = kind.rows(tokenizer, examples, LENGTH)
    assert max(len(row.ids) for row in rows) <= LENGTH
    wanted = torch_answers(folder, task, [list(r.ids) for r in rows], [list(r.types) for r in rows])
    for name, tolerance in (("x86", 2e-4), ("arm64", 2e-4), ("int8-sparse", 1.5)):
        target = get_target(name)
        model = tmp_path / target.model_file
        target.convert(load_encoder_spec(folder), model, ConvertOptions((LENGTH,)))
        session = target.open(model, SessionOptions())
        found = row_answers(session, rows, tokenizer.pad_id)
        session.close()
        assert [one.shape for one in found] == [one.shape for one in wanted]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=tolerance)


def edgebert_columns():  # type: ignore[no-untyped-def]
    from edgebert.data import Columns

    return Columns()


def test_tags_come_with_words_and_places(built: dict[str, BuildResult]) -> None:
    text = "Turn on the LAMP, please (in my kitchen)"
    for result in built["token-classification"].targets:
        with edgebert.load(result.package) as tagger:
            assert isinstance(tagger, edgebert.Tagger)
            (found,) = tagger.tag([text])
            assert [word.word for word in found.words] == [
                "Turn", "on", "the", "LAMP", ",", "please", "(", "in", "my", "kitchen", ")",
            ]  # fmt: skip
            assert all(text[w.start : w.end] == w.word and 0 < w.score <= 1 for w in found.words)
            assert {word.tag for word in found.words} <= set(TAGS)
            for entity in found.entities:
                assert text[entity.start : entity.end] == entity.text
            (known,) = tagger.tag_words([["Turn", "on", "the-lamp"]])
            assert [word.word for word in known.words] == ["Turn", "on", "the-lamp"]
            (long,) = tagger.tag([" ".join(["lamp"] * LONG)])  # longer than the model
            assert len(long.words) == LONG and all(word.score > 0 for word in long.words)
            assert tagger.tag([]) == []


def test_answers_come_with_their_place_however_long_the_context(built: dict[str, BuildResult]) -> None:
    contexts = ["Turn on the lamp in the kitchen", " ".join(["play", "music"] * LONG) + " in the hall"]
    for result in built["question-answering"].targets:
        with edgebert.load(result.package) as answerer:
            assert isinstance(answerer, edgebert.Answerer)
            found = answerer.answer(["what is my"] * 2, contexts)
            for answer, context in zip(found, contexts, strict=True):
                assert answer.text and context[answer.start : answer.end] == answer.text
            again = answerer.answer(["what is my"] * 2, contexts, may_be_none=True)
            assert all(one.text in ("", other.text) for one, other in zip(again, found, strict=True))


def test_vectors_have_the_length_one_and_the_same_bits_alone_and_together(
    built: dict[str, BuildResult],
) -> None:
    texts = ["turn on the lamp", "play my song", "stop"]
    for result in built["embedding"].targets:
        with edgebert.load(result.package) as embedder:
            assert isinstance(embedder, edgebert.Embedder)
            vectors = embedder.embed(texts)
            assert vectors.shape == (3, 32) and vectors.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
            if result.target == "int8-sparse":
                np.testing.assert_array_equal(embedder.embed(texts[1:2])[0], vectors[1])


@pytest.mark.parametrize("task", TASKS)
def test_a_package_asked_for_what_it_cannot_do_is_one_line(built: dict[str, BuildResult], task: str) -> None:
    with edgebert.load(built[task].targets[0].package) as model:
        others = set(METHODS.values()) - {METHODS[task]}
        for method in others:
            with pytest.raises(
                UsageError, match=rf"is for {task} and cannot {method}; ask it with \.{METHODS[task]}"
            ):
                getattr(model, method)(["a"])
            assert not hasattr(model, method)
        assert not hasattr(model, "sing")
        asked = (["  "], ["b"]) if task == "question-answering" else (["  "],)
        with pytest.raises(DataError, match="1 is empty"):
            getattr(model, METHODS[task])(*asked)
        one = ("a", "b") if task == "question-answering" else ("a",)
        with pytest.raises(UsageError, match="one string was given"):
            getattr(model, METHODS[task])(*one)


def test_validate_measures_the_task_s_metric(
    built: dict[str, BuildResult], source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in ("token-classification", "question-answering"):
        for result in built[task].targets:
            data = str(source / f"{task}-eval.jsonl")
            assert run(["validate", str(result.package), "--eval", data, "--json"]) == 0
            found = json.loads(capsys.readouterr().out)
            assert found["figures"]["examples"] == 30
            assert found["figures"]["f1"] == pytest.approx(result.report.validation.artifact)
            assert (
                run(["validate", str(result.package), "--eval", data, "--min-accuracy", "1"])
                == errors.EXIT_GATE
            )
            assert "f1" in capsys.readouterr().err
    package = built["embedding"].targets[0].package
    assert run(["validate", str(package), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"]["examples"] == 24 and 0.5 < found["figures"]["cosine"] <= 1
    assert run(["validate", str(package), "--min-accuracy", "1"]) == errors.EXIT_USAGE


def test_run_prints_tags_answers_and_vectors(
    built: dict[str, BuildResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = {task: str(built[task].targets[0].package) for task in TASKS}
    assert run(["run", package["token-classification"], "turn on the lamp"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[2:] for line in lines[:4]] == [
        ["0", "4", "turn"], ["5", "7", "on"], ["8", "11", "the"], ["12", "16", "lamp"],
    ]  # fmt: skip
    assert run(["run", package["question-answering"], "--context", "turn on the lamp", "what is my"]) == 0
    score, start, end, answer, question = capsys.readouterr().out.rstrip("\n").split("\t")
    assert "turn on the lamp"[int(start) : int(end)] == answer and question == "what is my"
    assert float(score)
    assert run(["run", package["embedding"], "turn on the lamp", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["predictions"][0]["vector"]) == 32
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"tokens": ["turn", "on"]}\n{"text": "the lamp"}\n')
    assert run(["run", package["token-classification"], "--jsonl", str(rows), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [[word["word"] for word in one["words"]] for one in found] == [["turn", "on"], ["the", "lamp"]]


def test_bench_takes_every_task(built: dict[str, BuildResult], capsys: pytest.CaptureFixture[str]) -> None:
    for task in TASKS:
        package = str(built[task].targets[-1].package)
        assert run(["bench", package, "--rounds", "1", "--runs", "2", "--length", "16", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["bench"][0]["artifact"]["length"] == 16


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("token-classification", ["--pair", "b", "a"], "--pair means nothing for token-classification"),
        ("question-answering", ["who"], "add --context TEXT"),
        ("question-answering", ["--top-k", "2", "--context", "a", "who"], "--top-k means nothing"),
        ("embedding", ["--context", "a", "b"], "--context means nothing for embedding"),
        ("embedding", [""], "text 1 is empty"),
    ],
)
def test_run_refuses_what_the_task_has_not(
    built: dict[str, BuildResult], task: str, words: list[str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(["run", str(built[task].targets[0].package), *words]) in (errors.EXIT_USAGE, errors.EXIT_DATA)
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("question-answering", {"task": "token-classification"}, "not made for token-classification"),
        ("question-answering", {"data": "token-classification"}, "'answers' must be an object"),
        ("token-classification", {"data": "question-answering"}, "'tokens' and 'tags' must be lists"),
        ("embedding", {"train": "token-classification", "task": "embedding"}, "leave out --train"),
        ("embedding", {"recipe": "int8"}, "has no labels for that"),
        ("question-answering", {"max_length": "9999"}, "takes at most 64 tokens"),
    ],
)
def test_a_build_that_does_not_fit_the_task_is_one_line(
    source: Path, tmp_path: Path, task: str, changes: dict[str, str], message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    data = changes.get("data", task)
    words = ["build", "--model", str(source / task), "--eval", str(source / f"{data}-eval.jsonl"),
             "--target", "x86", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]  # fmt: skip
    if task != "embedding" or "train" in changes:
        words += ["--train", str(source / f"{changes.get('train', data)}-train.jsonl")]
    for name in ("task", "recipe", "max_length"):
        if name in changes:
            words += [f"--{name.replace('_', '-')}", changes[name]]
    assert run(words) not in (0, errors.EXIT_BUG)
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1] and sum(line.startswith("edgebert:") for line in said) == 1


def test_running_a_package_of_any_task_needs_no_training_library(built: dict[str, BuildResult]) -> None:
    script = """
import sys, edgebert
tags, answers, vectors = sys.argv[1:]
with edgebert.load(tags) as model: model.tag(["turn on the lamp"])
with edgebert.load(answers) as model: model.answer(["what"], ["turn on the lamp"])
with edgebert.load(vectors) as model: model.embed(["turn on the lamp"])
heavy = ("torch", "transformers", "edgebert_compress")
assert not [name for name in sys.modules if name.split(".")[0] in heavy]
"""
    packages = [str(built[task].targets[2].package) for task in TASKS]
    done = subprocess.run(
        [sys.executable, "-c", script, *packages], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("task", TASKS)
def test_the_same_inputs_give_the_same_package(
    built: dict[str, BuildResult], source: Path, tmp_path: Path, task: str
) -> None:
    from dataclasses import replace

    again = build_packages(
        replace(options(source, task), out=tmp_path, targets=("int8-sparse",)), SilentReporter()
    )
    first = next(r.package for r in built[task].targets if r.target == "int8-sparse")
    for name in ("golden.jsonl", "model.gguf"):
        assert (again.targets[0].package / name).read_bytes() == (first / name).read_bytes()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("target", ["arm64", "int8-sparse"])
def test_a_package_is_proven_and_asked_on_a_device(
    built: dict[str, BuildResult], source: Path, task: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`local` runs the same runner and script as any device."""
    package = str(next(r.package for r in built[task].targets if r.target == target))
    data = [] if task == "embedding" else ["--eval", str(source / f"{task}-eval.jsonl"), "--limit", "6"]
    code = run(["validate", package, "--device", "local", *data, "--json", "--min-accuracy", "0"]
               if data else ["validate", package, "--device", "local", "--json"])  # fmt: skip
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found = json.loads(captured.out)
    assert found["golden"]["wrong_classes"] == 0 and found["device"]["golden_wrong"] == 0
    host = found["device"]["host"]
    assert host["identical"] == host["examples"] >= 24
    assert found["figures"]["examples"] == (24 if task == "embedding" else 6)
    asked = ["--context", "turn on the lamp", "what is my"] if task == "question-answering" else ["turn on"]
    answers = []
    for device in ([], ["--device", "local"]):
        assert run(["run", package, *device, *asked, "--json"]) == 0
        answers.append(json.loads(capsys.readouterr().out)["predictions"])
    assert json.dumps(answers[0]) == json.dumps(answers[1])
