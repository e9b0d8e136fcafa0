"""The engine's model file: the writer against both readers, sizes, the same bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from edgebert_targets.encoder import (
    ClassificationHead,
    EmbeddingHead,
    EncoderSpec,
    Linear,
    QuantizedTensor,
    QuestionHead,
    TokenHead,
    load_encoder_spec,
)
from edgebert_targets.errors import UnsupportedModelError
from edgebert_targets.int8_sparse.blocks import CHUNK_ROWS, SLAB_COLUMNS, PackedBlocks, unpack
from edgebert_targets.int8_sparse.convert import engine_linears, model_keys, model_tensors, write_model
from edgebert_targets.int8_sparse.model_file import read_model_file, write_model_file
from edgebert_targets.int8_sparse.rows import quantize_rows
from edgebert_targets.int8_sparse.tokenizer_file import tokenizer_keys
from tests.factories import ARCHITECTURES, vocabulary
from tests.targets.conftest import Checkpoints
from tests.targets.engine_specs import SETTINGS, SMALL, RandomEncoder, file_of, parts_of
from tests.targets.model_driver import OK, Loaded, load_all


def test_container_is_what_the_gguf_package_reads(tmp_path: Path) -> None:
    parts = parts_of(RandomEncoder(0.3).spec(**SMALL), SETTINGS)
    file_of(tmp_path, parts)
    stored = read_model_file(tmp_path / "model.gguf")
    theirs = gguf.GGUFReader(tmp_path / "model.gguf")
    keys = {**parts[0], "edgebert.norm_eps": float(np.float32(1e-12))}
    assert stored.keys == keys
    assert list(stored.tensors) == list(parts[1])
    assert {key: theirs.fields[key].contents() for key in keys} == keys
    for tensor in theirs.tensors:
        np.testing.assert_array_equal(tensor.data, stored.tensors[tensor.name])
        np.testing.assert_array_equal(stored.tensors[tensor.name], parts[1][tensor.name])
        assert tensor.data_offset % 64 == 0


def test_same_spec_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a.gguf", "b.gguf"):
        write_model(RandomEncoder(0.3, seed=5).spec(**SMALL), tmp_path / name)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    keys, tensors = parts_of(RandomEncoder(0.3).spec(**SMALL))
    old = file_of(tmp_path, (keys, tensors))
    with pytest.raises(Exception):  # noqa: B017 - whatever the package raises for a key it cannot write
        write_model_file(tmp_path / "model.gguf", {**keys, "edgebert.odd": []}, tensors)
    assert (tmp_path / "model.gguf").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_float_weights_are_rounded_and_noted(tmp_path: Path) -> None:
    spec = RandomEncoder(1.0).spec(**SMALL)
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((8, 8)).astype(np.float32)
    mixed = replace(spec, layers=(replace(spec.layers[0], key=replace(spec.layers[0].key, weight=weight)),))
    assert write_model(spec, tmp_path / "model.gguf") == ()
    (note,) = write_model(mixed, tmp_path / "model.gguf")
    assert note.startswith("1 of 8 linear layers were float")
    stored = read_model_file(tmp_path / "model.gguf").tensors
    np.testing.assert_array_equal(stored["layers.0.key.values"], quantize_rows(weight).values)


def test_float_tables_stay_float_beside_trained_integers() -> None:
    spec = RandomEncoder(1.0).spec(**SMALL)
    position = np.full((9, 8), 1 / 3, np.float32)
    types = np.full((2, 8), 0.5, np.float32)
    tensors = model_tensors(
        replace(spec, embeddings=replace(spec.embeddings, position=position, token_type=types))
    )
    np.testing.assert_array_equal(tensors["embeddings.position.floats"], position)
    assert tensors["embeddings.token_type.floats"].dtype == np.float16


def test_what_the_engine_cannot_run_is_refused(tmp_path: Path) -> None:
    spec = RandomEncoder(1.0).spec(**SMALL)
    other = RandomEncoder(1.0).layer("layer.1", 8, 16)
    eps = replace(spec.layers[0], output_norm=replace(spec.layers[0].output_norm, eps=1e-5))
    for bad, words in (
        (replace(spec, layers=(*spec.layers, other)), r"\[12, 16\]"),
        (replace(spec, layers=(eps,)), "eps"),
        (RandomEncoder(1.0).spec(**{**SMALL, "hidden": 514, "heads": 2}), "257 channels"),
    ):
        with pytest.raises(UnsupportedModelError, match=words):
            write_model(bad, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("density", "mebibytes"), [(0.2, 42), (0.1, 34)])
def test_size_at_bert_base(density: float, mebibytes: float, tmp_path: Path) -> None:
    """Vectors in half precision, as a checkpoint made for the engine holds them; the pooler pruned alike."""
    spec = RandomEncoder(density).spec(
        layers=12, hidden=768, heads=12, intermediate=3072, vocabulary=30522, positions=512
    )
    parts = parts_of(spec, SETTINGS)
    parts[1]["tokenizer.tokens"] = np.zeros(231_508, np.int8)  # as many bytes as bert-base-uncased has
    size = len(file_of(tmp_path, parts))
    assert size <= mebibytes * 2**20
    tensors = read_model_file(tmp_path / "model.gguf").tensors
    for name in ("layers.0.query", "layers.11.output"):
        weight = engine_linears(spec)[name].weight
        assert isinstance(weight, QuantizedTensor)
        packed = PackedBlocks(
            tensors[f"{name}.values"],
            *(tensors[f"{name}.{part}"].view(np.uint8) for part in ("counts", "gaps")),
        )
        np.testing.assert_array_equal(unpack(packed, *weight.values.shape), weight.values)


def with_head(spec: EncoderSpec, head: Any, labels: tuple[str, ...]) -> EncoderSpec:
    return replace(spec, head=head, labels=labels)


def engine_specs() -> dict[str, EncoderSpec]:
    encoder = RandomEncoder(0.3, seed=2)
    sparse = encoder.spec(**SMALL)
    floats = replace(
        sparse.embeddings,
        word=encoder.floats(11, 8),
        position=np.full((9, 8), 1 / 3, np.float32),
        token_type=None,
    )
    zeros = QuantizedTensor(np.zeros((8, 8), np.int8), np.ones(8, np.float32))
    empty = replace(sparse.layers[0], query=Linear("empty", zeros, encoder.floats(8)))
    assert isinstance(sparse.head, ClassificationHead)
    wide = {**SMALL, "hidden": 64, "intermediate": 1600, "layers": 2}
    return {
        "sparse": sparse,
        "dense": RandomEncoder(1.0).spec(**SMALL),
        "slabs": RandomEncoder(0.2).spec(**wide),
        "odd widths": RandomEncoder(0.2).spec(**{**SMALL, "hidden": 6, "intermediate": 10}),
        "projection": RandomEncoder(0.4).spec(**SMALL, width=5),
        "sparse projection": RandomEncoder(0.4).spec(**SMALL, width=4),
        "float tables": replace(sparse, embeddings=floats),
        "a layer of zeros": replace(sparse, layers=(empty,)),
        "tokens": with_head(sparse, TokenHead(encoder.linear("out", 3, 8)), sparse.labels),
        "questions": with_head(sparse, QuestionHead(encoder.linear("qa_outputs", 2, 8)), ()),
        "embedding": with_head(sparse, EmbeddingHead(True), ()),
        "relu": replace(sparse, activation="relu", head=replace(sparse.head, activation="gelu_tanh")),
    }


SPECS = engine_specs()


def check_linear(loaded: Loaded, name: str, linear: Linear) -> None:
    weight = linear.weight
    assert isinstance(weight, QuantizedTensor)
    outputs, inputs = weight.values.shape
    assert loaded.arrays[f"{name}.shape"].tolist() == [outputs, inputs]
    np.testing.assert_array_equal(loaded.arrays[f"{name}.weights"].reshape(outputs, inputs), weight.values)
    sums = weight.values.astype(np.int64).sum(axis=1)
    slabs = [
        key.removesuffix(".counts")
        for key in loaded.arrays
        if key.startswith(f"{name}.slab") and "counts" in key
    ]
    for place in slabs or [name]:
        row = loaded.arrays[f"{place}.row"]
        assert sorted(row) == list(range(outputs))
        np.testing.assert_array_equal(loaded.arrays[f"{place}.scale"], weight.scale[row])
        np.testing.assert_array_equal(loaded.arrays[f"{place}.bias"], linear.bias[row])
        np.testing.assert_array_equal(loaded.arrays[f"{place}.sum"], sums[row])
        if slabs:
            counts = loaded.arrays[f"{place}.counts"]
            order = list(zip(row // CHUNK_ROWS, -counts, row, strict=True))
            assert order == sorted(order)
    assert len(slabs) in (0, -(-inputs // SLAB_COLUMNS))


@pytest.mark.parametrize("name", SPECS)
def test_engine_reads_what_was_written(name: str, model_driver: Path, tmp_path: Path) -> None:
    spec = SPECS[name]
    (loaded,) = load_all(model_driver, [file_of(tmp_path, parts_of(spec))])
    assert (loaded.status, loaded.message) == (OK, "")
    tables = spec.embeddings
    for part, table in (
        ("word", tables.word),
        ("position", tables.position),
        ("token_type", tables.token_type),
    ):
        place = f"embeddings.{part}"
        if isinstance(table, QuantizedTensor):
            assert loaded.arrays[f"{place}.values"].tobytes() == table.values.tobytes()
            np.testing.assert_array_equal(loaded.arrays[f"{place}.scale"], table.scale)
        elif table is not None:
            np.testing.assert_array_equal(loaded.arrays[f"{place}.floats"].reshape(table.shape), table)
            assert loaded.arrays[f"{place}.shape"].tolist() == list(table.shape)
        else:
            assert loaded.arrays[f"{place}.shape"].tolist() == [0, 0]
    linears = engine_linears(spec)
    for place, linear in linears.items():
        check_linear(loaded, place, linear)
    assert {key.removesuffix(".weights") for key in loaded.arrays if key.endswith(".weights")} == set(linears)
    for i, layer in enumerate(spec.layers):
        for part in ("attention_norm", "output_norm"):
            norm = getattr(layer, part)
            np.testing.assert_array_equal(loaded.arrays[f"layers.{i}.{part}.weight"], norm.weight)
            np.testing.assert_array_equal(loaded.arrays[f"layers.{i}.{part}.bias"], norm.bias)
            np.testing.assert_array_equal(loaded.arrays[f"layers.{i}.{part}.eps"], np.float32(norm.eps))
    assert loaded.texts["labels"] == b"".join(label.encode() + b"\0" for label in spec.labels)
    tasks = ["classification", "token-classification", "question-answering", "embedding"]
    activations = ["gelu", "gelu_tanh", "relu", "tanh"]
    keys = model_keys(spec)
    assert loaded.arrays["geometry"].tolist() == [
        tasks.index(str(keys["edgebert.task"])),
        spec.hidden_size,
        spec.heads,
        spec.max_length,
        spec.embeddings.word_shape[0],
        activations.index(spec.activation),
        len(spec.layers),
        activations.index(str(keys.get("edgebert.head.activation", "tanh"))),
        int(keys.get("edgebert.head.normalize") is True),
        keys["edgebert.intermediate_size"],
    ]


def test_every_half_precision_number_is_read_exactly(model_driver: Path, tmp_path: Path) -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = np.resize(halves[np.isfinite(halves)], (30, 2176)).astype(np.float32)
    spec = RandomEncoder(1.0).spec(
        **{**SMALL, "positions": 30, "hidden": 2176, "heads": 17, "intermediate": 4}
    )
    spec = replace(spec, embeddings=replace(spec.embeddings, position=finite))
    (loaded,) = load_all(model_driver, [file_of(tmp_path, parts_of(spec))])
    assert read_model_file(tmp_path / "model.gguf").tensors["embeddings.position.floats"].dtype == np.float16
    assert loaded.arrays["embeddings.position.floats"].tobytes() == finite.tobytes()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpoints_of_every_family(
    architecture: str, checkpoints: Checkpoints, model_driver: Path, tmp_path: Path
) -> None:
    spec = load_encoder_spec(checkpoints(architecture, True))
    assert write_model(spec, tmp_path / "model.gguf") == ()
    (loaded,) = load_all(model_driver, [(tmp_path / "model.gguf").read_bytes()])
    assert (loaded.status, loaded.message) == (OK, "")
    for place, linear in engine_linears(spec).items():
        check_linear(loaded, place, linear)
    words = loaded.texts["tokenizer.tokens"]
    ids = {word: i for i, word in enumerate(vocabulary())}
    assert words.decode().split("\0")[:-1] == [w if ids[w] == i else "" for i, w in enumerate(vocabulary())]


def test_engine_reads_the_tokenizer(model_driver: Path, tmp_path: Path) -> None:
    bpe = replace(
        SETTINGS, kind="byte-bpe", unknown="", add_prefix_space=True, merges=("a b", "é é"), added=()
    )
    spec = SPECS["sparse"]
    without_types = replace(spec, embeddings=replace(spec.embeddings, token_type=None))
    files = [
        file_of(tmp_path, parts_of(spec, SETTINGS)),
        file_of(tmp_path, parts_of(spec, bpe)),
        file_of(tmp_path, parts_of(without_types, SETTINGS)),
    ]
    wordpiece, byte_bpe, zeros = load_all(model_driver, files)
    assert wordpiece.arrays["tokenizer.numbers"].tolist() == [0, 1, 0, 1, 0, 0, 77]
    assert wordpiece.texts["tokenizer.unknown"] == b"[UNK]"
    assert wordpiece.texts["tokenizer.prefix"] == b"##"
    assert wordpiece.texts["tokenizer.tokens"] == "[UNK]\0\0é\0##x\0".encode()
    assert wordpiece.arrays["tokenizer.single"].tolist() == [0, -1, 2]
    assert wordpiece.arrays["tokenizer.pair_types"].tolist() == [0, 0, 0, 1]
    assert wordpiece.texts["tokenizer.added.content"] == "[UNK]\0é\0".encode()
    assert wordpiece.arrays["tokenizer.added"].tolist() == [0, 1, 0, 1, 0, 2, 0, 1, 0, 1]
    assert byte_bpe.arrays["tokenizer.numbers"].tolist() == [1, 1, 0, 1, 0, 1, 77]
    assert byte_bpe.texts["tokenizer.merges"] == "a b\0é é\0".encode()
    assert byte_bpe.arrays["tokenizer.added"].size == 0
    assert zeros.arrays["tokenizer.pair_types"].tolist() == [0, 0, 0, 0]


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="id 99"):
        tokenizer_keys(replace(SETTINGS, single=(99, -1)), 11, 2)
    with pytest.raises(UnsupportedModelError, match="token type 2"):
        tokenizer_keys(replace(SETTINGS, single_types=(0, 2, 0)), 11, 2)
