"""Damaged artifacts and impossible inputs: one line each, never a crash of the runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebert_targets.base import ConvertOptions, Session, SessionOptions, Target, get_target
from edgebert_targets.encoder import load_encoder_spec
from edgebert_targets.errors import ArtifactError, InputError, TargetError
from tests.factories import vocabulary
from tests.targets.conftest import Checkpoints
from tests.targets.sequences import batch

Artifacts = dict[str, Path]
TARGETS = ("x86", "arm64", "int8-sparse")


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    return get_target(request.param)


@pytest.fixture(scope="module")
def artifacts(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    spec = load_encoder_spec(checkpoints("bert", True))
    folder = tmp_path_factory.mktemp("artifacts")
    made = {}
    for name in TARGETS:
        target = get_target(name)
        made[name] = folder / target.model_file
        target.convert(spec, made[name], ConvertOptions(lengths=(8, 16)))
    return made


@pytest.fixture
def session(target: Target, artifacts: Artifacts) -> Session:
    return target.open(artifacts[target.name], SessionOptions())


def expect_one_line(target: Target, path: Path) -> None:
    for use in (lambda: target.open(path, SessionOptions()), lambda: target.inspect(path)):
        with pytest.raises(ArtifactError) as caught:
            use()
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)


def test_truncated(target: Target, artifacts: Artifacts, tmp_path: Path) -> None:
    whole = artifacts[target.name].read_bytes()
    path = tmp_path / target.model_file
    for size in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1000):
        path.write_bytes(whole[:size])
        expect_one_line(target, path)


def test_not_a_model(target: Target, artifacts: Artifacts, tmp_path: Path) -> None:
    path = tmp_path / target.model_file
    noise = np.random.default_rng(0).bytes(5000)
    for data in (noise, bytes(5000), b"\xff" * 5000, b"\xff\xff\xff\x7fTFL3" + noise, b"\x10\0\0\0TFL3"):
        path.write_bytes(data)
        expect_one_line(target, path)
    expect_one_line(target, tmp_path / "absent")


def test_the_other_targets_model(target: Target, artifacts: Artifacts) -> None:
    for name, other in artifacts.items():
        if name != target.name:
            expect_one_line(target, other)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1), damage=st.binary(min_size=1, max_size=64))
def test_damaged_anywhere_runs_or_says_so(
    target: Target, artifacts: Artifacts, tmp_path: Path, position: float, damage: bytes
) -> None:
    data = bytearray(artifacts[target.name].read_bytes())
    start = int(position * (len(data) - len(damage)))
    data[start : start + len(damage)] = damage
    path = tmp_path / target.model_file
    path.write_bytes(data)
    try:
        logits = target.open(path, SessionOptions()).run(*batch(5))
    except TargetError as error:
        assert "\n" not in str(error)
    else:
        assert logits.shape[0] == 1
        assert target.inspect(path).nbytes == len(data)


@pytest.mark.parametrize("bad", [-1, len(vocabulary()), 2**31, 2**40, -(2**63)])
def test_ids_outside_the_vocabulary(session: Session, bad: int) -> None:
    ids, mask, types = batch(5)
    ids[0, 3] = bad
    with pytest.raises(InputError, match=str(bad)):
        session.run(ids, mask, types)


def test_largest_id_is_taken(session: Session) -> None:
    ids, mask, types = batch(5)
    ids[0, 3] = len(vocabulary()) - 1
    assert np.isfinite(session.run(ids, mask, types)).all()


def test_other_bad_inputs(session: Session) -> None:
    ids, mask, types = batch(5)
    longest = np.ones((1, session.max_length), np.int64)
    assert session.run(longest, longest, longest * 0).shape == (1, 3)
    longer = np.ones((1, session.max_length + 1), np.int64)
    cases = [
        ((longer, longer, longer * 0), "truncate"),
        ((ids[0], mask[0], types[0]), "shape"),
        ((ids[:, :0], mask[:, :0], types[:, :0]), "shape"),
        ((ids, mask[:, 1:], types), "attention_mask"),
        ((ids, mask, types[:, 1:]), "token_type_ids"),
        ((ids.astype(np.float32), mask, types), "float32"),
        ((ids, mask * 2, types), "mask"),
        ((ids, mask, types + 2), "token type"),
    ]
    for inputs, words in cases:
        with pytest.raises(InputError, match=words):
            session.run(*inputs)


def test_a_closed_session_says_so(session: Session) -> None:
    session.close()
    with pytest.raises(InputError, match="closed"):
        session.run(*batch(5))


def test_a_full_disk_leaves_nothing(target: Target, checkpoints: Checkpoints, tmp_path: Path) -> None:
    spec = load_encoder_spec(checkpoints("bert", False))
    with pytest.raises(OSError):
        target.convert(spec, tmp_path / "no such folder" / target.model_file, ConvertOptions(lengths=(8,)))
    assert list(tmp_path.iterdir()) == []
