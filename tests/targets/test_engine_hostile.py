"""Model files that are damaged or made to do harm: an error of one line from both readers, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebert_targets.errors import ArtifactError
from edgebert_targets.int8_sparse.model_file import U32List, read_model_file
from tests.targets.engine_specs import SETTINGS, SMALL, Parts, RandomEncoder, file_of, parts_of
from tests.targets.model_driver import FORMAT, OK, VERSION, load_all


def changed(parts: Parts, name: str, change: Callable[[NDArray[Any]], Any]) -> Parts:
    keys, tensors = parts
    value = tensors[name].copy()
    other = change(value)
    return keys, {**tensors, name: np.asarray(value if other is None else other)}


def edit(name: str, change: Callable[[NDArray[Any]], Any]) -> Callable[[Parts], Parts]:
    return lambda parts: changed(parts, name, change)


def put(index: Any, value: Any) -> Callable[[NDArray[Any]], None]:
    def change(array: NDArray[Any]) -> None:
        array[index] = value

    return change


def key(name: str, value: Any) -> Callable[[Parts], Parts]:
    return lambda parts: ({**parts[0], f"edgebert.{name}": value}, parts[1])


def without_key(name: str) -> Callable[[Parts], Parts]:
    return lambda parts: ({k: v for k, v in parts[0].items() if k != f"edgebert.{name}"}, parts[1])


def without_tensor(name: str) -> Callable[[Parts], Parts]:
    return lambda parts: (parts[0], {k: v for k, v in parts[1].items() if k != name})


def extra(name: str, array: NDArray[Any]) -> Callable[[Parts], Parts]:
    return lambda parts: (parts[0], {**parts[1], name: array})


Q = "layers.0.query"  # sparse
D = "layers.0.output"  # dense
MALFORMED: list[tuple[Callable[[Parts], Parts], str]] = [
    (without_key("hidden_size"), "no key 'edgebert.hidden_size'"),
    (key("hidden_size", "8"), "type"),
    (key("hidden_size", True), "type"),
    (key("hidden_size", 0), "outside"),
    (key("hidden_size", 65537), "outside"),
    (key("hidden_size", 12), "tensor"),
    (key("intermediate_size", 16), "shape"),
    (key("heads", 3), "heads"),
    (key("layers", 2), "layers.1"),
    (key("layers", 1025), "outside"),
    (key("max_length", 8), "shape"),
    (key("vocabulary", 12), "word"),
    (key("vocabulary", 10), "word"),
    (key("task", "translation"), "translation"),
    (key("task", "embedding"), "normalize"),
    (key("task", "question-answering"), "head.out"),
    (key("task", "token-classification"), "head.dense"),
    (key("activation", "tanh"), "tanh"),
    (key("head.activation", "swish"), "swish"),
    (key("norm_eps", 1.0), "norm_eps"),
    (key("norm_eps", float("nan")), "norm_eps"),
    (key("labels", ["a", "b"]), "head.out"),
    (key("labels", [1, 2, 3]), "type"),
    (key("labels", ["a"] * 65537), "65537"),
    (key("surprise", 1), "surprise"),
    (without_tensor(f"{Q}.scale"), f"{Q}.scale"),
    (without_tensor(f"{Q}.bias"), f"{Q}.bias"),
    (without_tensor(f"{Q}.gaps"), f"{Q}.gaps"),
    (without_tensor(f"{Q}.values"), f"{Q}.values"),
    (without_tensor(f"{Q}.counts"), "shape"),
    (without_tensor("embeddings.word.scale"), "word.scale"),
    (without_tensor("embeddings.norm.bias"), "norm.bias"),
    (without_tensor("embeddings.token_type.values"), "token_type.scale"),
    (extra("layers.1.query.bias", np.ones(8, np.float32)), "layers.1.query.bias"),
    (extra("embeddings.word.floats", np.ones((11, 8), np.float32)), "word"),
    (extra("embeddings.projection.scale", np.ones(8, np.float32)), "projection"),
    (edit(f"{Q}.scale", put(0, 0)), "positive"),
    (edit(f"{Q}.scale", put(0, -1)), "positive"),
    (edit(f"{Q}.scale", put(0, np.nan)), "NaN"),
    (edit(f"{Q}.scale", put(0, np.inf)), "infinity"),
    (edit(f"{Q}.scale", lambda a: a.astype(np.float16)), "type"),
    (edit(f"{Q}.scale", lambda a: a.reshape(2, 4)), "shape"),
    (edit(f"{Q}.bias", put(0, np.inf)), "infinity"),
    (edit(f"{Q}.bias", lambda a: a.astype(np.int8)), "F16"),
    (edit(f"{Q}.bias", lambda a: a[:-1]), "shape"),
    (edit("embeddings.norm.weight", put(0, np.nan)), "NaN"),
    (edit("embeddings.word.scale", put(3, 0)), "positive"),
    (edit("embeddings.word.values", lambda a: a[:, :-1]), "embeddings.position"),
    (edit("embeddings.position.values", lambda a: a.astype(np.float32)), "type"),
    (edit(f"{D}.values", put((0, 0), -128)), "-128"),
    (edit(f"{D}.values", put((7, 11), -128)), "-128"),
    (edit(f"{D}.values", lambda a: a.ravel()), "shape"),
    (edit(f"{Q}.values", put(0, -128)), "-128"),
    (edit(f"{Q}.values", lambda a: a[:-4]), "values"),
    (edit(f"{Q}.values", lambda a: np.append(a, np.zeros(4, np.int8))), "left over"),
    (edit(f"{Q}.values", lambda a: a[:-1]), "multiple of 4"),
    (edit(f"{Q}.counts", put((0, 0), 3)), "more blocks"),
    (edit(f"{Q}.counts", put((0, 0), -1)), "more blocks"),
    (edit(f"{Q}.counts", put((0, slice(None)), 2)), "values"),
    (edit(f"{Q}.counts", put((0, slice(None)), 0)), "bytes|left over"),
    (edit(f"{Q}.counts", lambda a: a.ravel()), "shape"),
    (edit(f"{Q}.gaps", put(4, 8)), "Rice"),
    (edit(f"{Q}.gaps", put(7, 1)), "Rice"),
    (edit(f"{Q}.gaps", put(0, 100)), "pass the end"),
    (edit(f"{Q}.gaps", put(3, 127)), "pass the end"),
    (edit(f"{Q}.gaps", put(8, -1)), "beyond its slab"),
    (edit(f"{Q}.gaps", lambda a: a[:7]), "before the last slab"),
    (edit(f"{Q}.gaps", lambda a: np.append(a, np.int8(0))), "left over"),
    (edit(f"{Q}.gaps", lambda a: np.append(a, np.int8(0)) + (np.arange(len(a) + 1) == 0)), "do not end"),
    (key("tokenizer.kind", "sentencepiece"), "sentencepiece"),
    (without_key("tokenizer.kind"), "tokenizer"),
    (without_key("tokenizer.lowercase"), "lowercase"),
    (without_key("tokenizer.pair"), "pair"),
    (key("tokenizer.single", [0, -2]), "single"),
    (key("tokenizer.single", [0, -1, 11]), "single"),
    (key("tokenizer.pair_types", [0, 0, 0, 2]), "token type 2"),
    (key("tokenizer.pair_types", [0, 0, 0, -1]), "token type -1"),
    (key("tokenizer.pair_types", [0, 0]), "4 ids and 2 types"),
    (key("tokenizer.added.ids", [0, 11]), "id 11"),
    (key("tokenizer.added.ids", [0]), "2 added tokens"),
    (key("tokenizer.added.flags", U32List([0, 16])), "flags 16"),
    (key("tokenizer.added.flags", [0, 1]), "type"),
    (without_tensor("tokenizer.tokens"), "tokenizer.tokens"),
    (edit("tokenizer.tokens", put(-1, 65)), "no end"),
    (edit("tokenizer.tokens", lambda a: np.zeros(12, np.int8)), "more than 11"),
    (extra("tokenizer.merges", np.zeros(1, np.int8)), "tokenizer.merges"),
]


@pytest.fixture(scope="module")
def sound() -> Parts:
    """`Q` sparse, `D` dense."""
    spec = RandomEncoder(0.3, seed=2).spec(**SMALL)
    dense = replace(spec.layers[0], output=RandomEncoder(1.0).linear("output", 8, 12))
    return parts_of(replace(spec, layers=(dense,)), SETTINGS)


def test_malformed_models_are_refused(sound: Parts, model_driver: Path, tmp_path: Path) -> None:
    files = [file_of(tmp_path, parts) for parts in (sound, *(change(sound) for change, _ in MALFORMED))]
    first, *rest = load_all(model_driver, files)
    assert first.status == OK, first.message
    for (_, words), loaded in zip(MALFORMED, rest, strict=True):
        assert loaded.status == FORMAT, words
        assert words in loaded.message or any(word in loaded.message for word in words.split("|")), (
            loaded.message
        )
        assert "\n" not in loaded.message


def test_other_kinds_of_file(sound: Parts, model_driver: Path, tmp_path: Path) -> None:
    whole = file_of(tmp_path, sound)
    alignment = whole.index(b"general.alignment") + len(b"general.alignment") + 4
    renamed = whole.replace(b"general.alignment", b"general.alignmant", 1)
    twice = whole.replace(b"edgebert.layers", b"edgebert.format", 1)
    tensor_twice = whole.replace(b"layers.0.key.bias", b"layers.0.key.scal", 1)
    tensor_twice = tensor_twice.replace(b"layers.0.value.scale", b"layers.0.query.scale", 1)
    newer = file_of(tmp_path, key("format", 2)(sound))
    cases = [
        (b"", FORMAT, "0 bytes"),
        (b"GGUF", FORMAT, "ends inside its header"),
        (b"PK" + whole[2:], FORMAT, "not a GGUF"),
        (whole[:4] + b"\2" + whole[5:], VERSION, "version 2"),
        (whole.replace(b"\x08\0\0\0\0\0\0\0edgebert", b"\x08\0\0\0\0\0\0\0mamba-go", 1), VERSION, "mamba-go"),
        (newer, VERSION, "format 2"),
        (whole[:8] + (2**63).to_bytes(8, "little") + whole[16:], FORMAT, "tensors"),
        (whole[:16] + (2**40).to_bytes(8, "little") + whole[24:], FORMAT, "keys"),
        (whole[:alignment] + b"\x20" + whole[alignment + 1 :], FORMAT, "general.alignment"),
        (renamed, FORMAT, "general.alignment"),
        (twice, FORMAT, "twice"),
        (tensor_twice, FORMAT, "twice"),
        (whole + bytes(64), FORMAT, "bytes"),
        (whole[:-64], FORMAT, "beyond the file"),
        (whole[:-1], FORMAT, "bytes"),
    ]
    for (_, status, words), loaded in zip(
        cases, load_all(model_driver, [data for data, _, _ in cases]), strict=True
    ):
        assert (loaded.status, words in loaded.message) == (status, True), (words, loaded.message)
    for data, _, _ in cases:
        if data == newer:
            continue  # the Python reader leaves the meaning of keys to others
        (tmp_path / "bad.gguf").write_bytes(data)
        with pytest.raises(ArtifactError) as caught:
            read_model_file(tmp_path / "bad.gguf")
        assert "\n" not in str(caught.value)


def test_no_spoilt_byte_and_no_cut_crashes_the_engine(
    sound: Parts, model_driver: Path, tmp_path: Path
) -> None:
    """Under the sanitizers: every byte of the file changed, many lengths cut."""
    whole = file_of(tmp_path, sound)
    masks = np.random.default_rng(0).integers(1, 256, len(whole))
    cuts = [whole[:i] for i in range(0, len(whole), 5)]
    spoilt = [whole[:i] + bytes([whole[i] ^ int(masks[i])]) + whole[i + 1 :] for i in range(len(whole))]
    answers = load_all(model_driver, [*cuts, *spoilt], quiet=True)
    assert all(answer.status == FORMAT for answer in answers[: len(cuts)])
    assert {OK, FORMAT, VERSION} == {answer.status for answer in answers}


def test_spoilt_headers_give_an_error_in_python(sound: Parts, tmp_path: Path) -> None:
    whole = file_of(tmp_path, sound)
    path = tmp_path / "bad.gguf"
    rng = np.random.default_rng(1)
    for i in rng.integers(0, whole.index(b"tokenizer.tokens"), 400):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ int(rng.integers(1, 256))]) + whole[i + 1 :])
        try:
            read_model_file(path)
        except ArtifactError as error:
            assert "\n" not in str(error)
