"""What a model folder is: supported or not, head trained or not, and whose labels it has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgebert.errors import ModelError, UsageError
from edgebert.source_model import match_labels, resolve_model
from tests.factories import ARCHITECTURES, LABELS, make_checkpoint

AUTO_CLASSES = {
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "masked-language-model": "AutoModelForMaskedLM",
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "bert", layers=1)


@pytest.fixture
def model(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


def edit_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("task", ["token-classification", "question-answering", "masked-language-model"])
def test_heads_of_other_tasks(tmp_path: Path, architecture: str, task: str) -> None:
    """A folder that transformers wrote has a trained head for its own task, and for others at most none."""
    import torch
    import transformers

    folder = make_checkpoint(tmp_path / "m", architecture, layers=1)
    config = transformers.AutoConfig.from_pretrained(folder)
    if task == "question-answering":
        config.num_labels = 2
    torch.manual_seed(0)
    getattr(transformers, AUTO_CLASSES[task]).from_config(config).save_pretrained(folder)
    found = resolve_model(folder, task)
    assert found.task == task
    assert found.labels == (LABELS if task == "token-classification" else ())
    for other in set(AUTO_CLASSES) - {task}:
        if task == "masked-language-model":  # an upstream model: every task may start from it
            assert resolve_model(folder, other).labels is None
        else:
            with pytest.raises(ModelError, match=f"which is not made for {other}"):
                resolve_model(folder, other)


def test_unknown_task(bert: Path) -> None:
    with pytest.raises(UsageError, match="unknown task 'poetry'; use one of: text-classification"):
        resolve_model(bert, "poetry")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_classifiers_have_a_trained_head(tmp_path: Path, architecture: str) -> None:
    model = resolve_model(make_checkpoint(tmp_path / "m", architecture, layers=1))
    assert model.architecture == architecture
    assert model.labels == LABELS
    assert model.max_length == (65 if architecture == "roberta" else 64)


def test_a_plain_encoder_has_no_trained_head(model: Path) -> None:
    import torch
    from transformers import AutoModel

    AutoModel.from_pretrained(model, dtype=torch.float32).save_pretrained(model)
    assert resolve_model(model).labels is None


def test_the_hash_follows_the_content(model: Path) -> None:
    before = resolve_model(model).sha256
    assert resolve_model(model).sha256 == before
    edit_config(model, layer_norm_eps=1e-6)
    assert resolve_model(model).sha256 != before


def test_numbered_labels_fit_a_head_without_names(model: Path) -> None:
    edit_config(model, id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    found = resolve_model(model)
    assert match_labels(found, ("0", "2")) == ("0", "1", "2")
    assert match_labels(found, ("LABEL_1",)) == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_unknown_label_is_told_with_the_way_out(model: Path) -> None:
    with pytest.raises(ModelError, match=r"does not know the label 'door'.*--new-head"):
        match_labels(resolve_model(model), ("light", "door"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "gpt2"}, "architecture 'gpt2'"),
        ({"model_type": None}, "architecture 'None'"),
        ({"architectures": ["BertForQuestionAnswering"]}, "which is not made for text-classification"),
        ({"id2label": {"0": "a", "7": "b"}}, "does not number the labels"),
        ({"id2label": ["a"]}, "not a table"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings is 'many'"),
    ],
)
def test_unsupported_configurations(model: Path, change: dict[str, object], says: str) -> None:
    edit_config(model, **change)
    with pytest.raises(ModelError, match=says):
        resolve_model(model)


def test_pickled_weights_are_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="never loaded"):
        resolve_model(model)


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\x10" + bytes(7) + b"{", (1 << 40).to_bytes(8, "little")]
)
def test_damaged_weights(model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="is damaged"):
        resolve_model(model)


@pytest.mark.parametrize("content", ["", "[]", "{", "nul"])
def test_damaged_configuration(model: Path, content: str) -> None:
    (model / "config.json").write_text(content)
    with pytest.raises(ModelError, match="not a model configuration"):
        resolve_model(model)


@pytest.mark.parametrize("name", ["/no/such/folder", "../x", "no-such-owner/no-such-model"])
def test_missing_model_is_one_line(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_no_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer files"):
        resolve_model(model)


def test_hub_id_with_the_hub_mocked(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[str] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: (asked.append(name), str(model))[1]
    )
    found = resolve_model("owner/tiny-bert")
    assert asked == ["owner/tiny-bert"]
    assert (found.name, found.folder) == ("owner/tiny-bert", model)
