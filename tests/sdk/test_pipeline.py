"""The classifier: order, batches, scores and clean-up (with a stand-in backend); real backends at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import edgebert
from edgebert.cli.dispatch import run as cli
from edgebert.errors import DataError, PackageError, UsageError, WrongCpuError
from edgebert.golden import record_golden
from edgebert.inference import CHUNK
from edgebert.machine import architecture
from edgebert.manifest import Backend, Cpu, TokenizerSettings
from edgebert.package import PackageContents, write_package
from edgebert.pipeline import load
from edgebert.tasks.text_classification import class_ids, figures, macro_f1, predictions, softmax
from edgebert.tokenizer import TextTokenizer
from tests.factories import LABELS, make_checkpoint, task_sentences
from tests.sdk.packages import FakeTarget, fake_logits, make_manifest, make_package, target

__all__ = ["target"]


def expected_logits(
    classifier: edgebert.Classifier, texts: list[str], pairs: list[str | None]
) -> NDArray[np.float32]:
    rows = [classifier.tokenizer.encode_ids(text, pair) for text, pair in zip(texts, pairs, strict=True)]
    return np.stack([fake_logits(ids, types) for ids, types in rows])


@pytest.mark.parametrize("as_zip", [False, True])
def test_answers_come_in_the_order_of_the_texts(tmp_path: Path, target: FakeTarget, as_zip: bool) -> None:
    texts = [text for text, _ in task_sentences(100)] + ["", "turn " * 5000, "🙂", "x\0y"]
    pairs: list[str | None] = [None if i % 3 else "stop the music" for i in range(len(texts))]
    with load(make_package(tmp_path, as_zip=as_zip)) as classifier:
        expected = expected_logits(classifier, texts, pairs)
        np.testing.assert_array_equal(classifier.logits(texts, pairs), expected)
        found = classifier.classify(texts, pairs)
    assert [p.label for p in found] == [LABELS[i] for i in expected.argmax(axis=1)]
    assert target.session.closed
    assert target.opened[0].exists() is not as_zip


def test_chunks_do_not_change_answers(
    tmp_path: Path, target: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CHUNK > 7
    texts = [text for text, _ in task_sentences(30)]
    with load(make_package(tmp_path)) as classifier:
        whole = classifier.logits(texts)
        monkeypatch.setattr("edgebert.inference.CHUNK", 7)
        np.testing.assert_array_equal(classifier.logits(texts), whole)
        with pytest.raises(DataError, match="text 9 "):
            classifier.logits(["a"] * 8 + ["\udcff"])


def test_batches_hold_similar_lengths_and_no_more_padding_than_needed(
    tmp_path: Path, target: FakeTarget
) -> None:
    texts = ["turn"] * 16 + ["turn on the light in the kitchen"] * 16
    mixed = [texts[i // 2 + 16 * (i % 2)] for i in range(32)]
    with load(make_package(tmp_path)) as classifier:
        classifier.logits(mixed)
    assert target.session.widths == [(16, 3), (16, 9)]


def test_long_text_is_cut_to_the_packages_length(tmp_path: Path, target: FakeTarget) -> None:
    with load(make_package(tmp_path)) as classifier:
        classifier.classify(["light " * 20_000])
    assert target.session.widths == [(1, 16)]


def test_no_texts_no_answers(tmp_path: Path, target: FakeTarget) -> None:
    with load(make_package(tmp_path)) as classifier:
        assert classifier.classify([]) == []
    assert target.session.widths == []


def test_top_k(tmp_path: Path, target: FakeTarget) -> None:
    with load(make_package(tmp_path)) as classifier:
        one, all_of_them = (classifier.classify(["play a song"], top_k=k)[0] for k in (1, 10))
        with pytest.raises(UsageError, match="top_k"):
            classifier.classify(["a"], top_k=0)
    assert one.scores == all_of_them.scores[:1] == ((one.label, one.score),)
    assert sorted(label for label, _ in all_of_them.scores) == sorted(LABELS)
    values = [score for _, score in all_of_them.scores]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1)


def test_bad_calls(tmp_path: Path, target: FakeTarget) -> None:
    path = make_package(tmp_path)
    with pytest.raises(UsageError, match="threads"):
        load(path, threads=0)
    with load(path) as classifier:
        with pytest.raises(UsageError, match="one string"):
            classifier.classify("text")
        with pytest.raises(DataError, match="second texts"):
            classifier.classify(["a", "b"], ["c"])


def test_package_for_a_backend_that_this_cpu_cannot_run(tmp_path: Path, target: FakeTarget) -> None:
    path = make_package(tmp_path)
    target.host_architectures = ("riscv64",)
    with pytest.raises(WrongCpuError, match=f"do not run on {architecture()}"):
        load(path)
    assert target.opened == []


def test_package_meant_for_another_cpu_runs_with_a_note(tmp_path: Path, target: FakeTarget) -> None:
    with load(make_package(tmp_path, cpu=Cpu(("riscv64",)))) as classifier:
        assert len(classifier.notes) == 1
        assert "meant for riscv64" in classifier.notes[0]


def test_package_for_a_target_that_is_not_installed(tmp_path: Path, target: FakeTarget) -> None:
    with pytest.raises(PackageError, match="'unknown'"):
        load(make_package(tmp_path, target="unknown"))


def test_more_tokens_than_the_model_takes(tmp_path: Path, target: FakeTarget) -> None:
    path = make_package(
        tmp_path, tokenizer=TokenizerSettings(max_length=65, pad_id=0, token_types=True, lowercase=True)
    )
    with pytest.raises(PackageError, match="65 tokens"):
        load(path)
    assert target.session.closed


ROWS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
        st.lists(st.integers(0, 4), min_size=n, max_size=n),
    )
)


@settings(deadline=None)
@given(ROWS)
def test_figures_against_their_definitions(rows: tuple[list[int], list[int]]) -> None:
    guess, truth = rows
    scores = []
    for label in set(guess) | set(truth):
        hits = sum(g == t == label for g, t in zip(guess, truth, strict=True))
        precision = hits / guess.count(label) if label in guess else 0.0
        recall = hits / truth.count(label) if label in truth else 0.0
        scores.append(2 * precision * recall / (precision + recall) if hits else 0.0)
    assert macro_f1(np.array(guess), np.array(truth)) == pytest.approx(sum(scores) / len(scores))
    logits = np.eye(5, dtype=np.float32)[guess]
    found = figures(logits, np.array(truth))
    assert found.accuracy == pytest.approx(
        sum(g == t for g, t in zip(guess, truth, strict=True)) / len(truth)
    )
    assert found.examples == len(truth)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-80, 80, width=32), min_size=3, max_size=3))
def test_softmax_against_its_definition(row: list[float]) -> None:
    wide = np.exp(np.array(row, np.longdouble))
    np.testing.assert_allclose(softmax(np.array([row], np.float32))[0], wide / wide.sum(), rtol=1e-12)


def test_softmax_of_huge_logits() -> None:
    np.testing.assert_array_equal(softmax(np.array([[3e38, 0, -3e38]], np.float32)), [[1, 0, 0]])


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    found = predictions(np.zeros((1, 3), np.float32), ("c", "a", "b"), top_k=3)[0]
    assert [label for label, _ in found.scores] == ["c", "a", "b"]


def test_unknown_label_is_named_with_its_number() -> None:
    with pytest.raises(DataError, match="example 2 has the label 'z'"):
        class_ids(["a", "z"], ["a", "b"])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), "bert")


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize("name", ["x86", "arm64"])
def test_real_backend_answers_as_pytorch(
    checkpoint: Path, tmp_path: Path, name: str, as_zip: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a checkpoint through a real artifact, package and command line to PyTorch's own logits."""
    import torch
    import transformers

    from edgebert_targets.base import ConvertOptions, SessionOptions, get_target
    from edgebert_targets.encoder import load_encoder_spec

    torch.set_num_threads(1)
    real = get_target(name)
    model, length = tmp_path / real.model_file, 32
    facts = real.convert(load_encoder_spec(checkpoint), model, ConvertOptions(lengths=(length,)))
    tokenizer = TextTokenizer.from_folder(checkpoint, length)
    texts = [text for text, _ in task_sentences(20)] + ["", "play " * 1000, "Zürich 🙂"]
    pairs: list[str | None] = [None if i % 4 else "stop the music" for i in range(len(texts))]
    session = real.open(model, SessionOptions())
    golden = record_golden(session, tokenizer, texts, pairs)
    session.close()
    manifest = make_manifest(
        target=name,
        backend=Backend(real.backend, real.backend_version()),
        cpu=Cpu(facts.cpu_architectures, facts.cpu_features_any),
        model_file=real.model_file,
        tokenizer=TokenizerSettings(length, tokenizer.pad_id, tokenizer.token_types, tokenizer.lowercase),
    )
    path = tmp_path / "package"
    contents = PackageContents(manifest, model, checkpoint, golden, "{}", "<!doctype html>")
    write_package(path, contents, as_zip=as_zip, force=False)

    torch_tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    torch_model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, dtype=torch.float32
    )
    expected = []
    for text, pair in zip(texts, pairs, strict=True):
        inputs = torch_tokenizer(
            [text], pair and [pair], truncation=True, max_length=length, return_tensors="pt"
        )
        with torch.no_grad():
            expected.append(torch_model.eval()(**inputs).logits[0].numpy())

    with edgebert.load(path) as classifier:
        np.testing.assert_allclose(classifier.logits(texts, pairs), np.stack(expected), atol=2e-4)
        labels = [prediction.label for prediction in classifier.classify(texts, pairs)]
        assert bool(classifier.notes) is (architecture() not in facts.cpu_architectures)
    assert labels == [LABELS[int(row.argmax())] for row in expected]
    validation = edgebert.validate_package(path, [])
    assert validation.passed
    assert validation.golden.max_difference == 0

    assert cli(["run", str(path), texts[1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["label"] == labels[1]
    assert cli(["inspect", str(path), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["model_bytes"] == model.stat().st_size
    assert {part["part"] for part in body["parts"]} >= {"embeddings", "layer 0", "layer 1", "head"}


def test_importing_and_running_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, edgebert, edgebert.cli.run, edgebert.cli.validate, edgebert.cli.inspect; edgebert.load;"
        "heavy = {'torch', 'transformers', 'onnx', 'datasets'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plain_import_is_light() -> None:
    code = "import sys, edgebert; assert not {'numpy', 'tokenizers', 'edgebert.pipeline'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there() -> None:
    for name in edgebert.__all__:
        assert callable(getattr(edgebert, name)) or name == "__version__"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edgebert.nothing  # noqa: B018
