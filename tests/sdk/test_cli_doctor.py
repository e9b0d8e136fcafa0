"""`edgebert doctor`: what it says about extras and targets, for machines and installations of every kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgebert import errors
from edgebert.cli import doctor
from edgebert.cli.dispatch import run
from edgebert.machine import MachineFacts, machine_facts

REQUIREMENTS = [
    "click<9,>=8.1",
    'onnxruntime<2,>=1; extra == "x86"',
    'no-such-library-here>=1; extra == "arm64"',
    'edgebert[x86]; extra == "convert-x86"',
    "flatbuffers ; extra == 'convert-x86'",
]


@pytest.fixture
def machine() -> MachineFacts:
    return machine_facts()


def test_json_and_table_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["can_run"] and {"machine", "versions", "compiler", "extras", "targets"} <= set(found)
    assert {target["name"] for target in found["targets"]} >= {"x86", "arm64"}
    assert run(["doctor"]) == 0
    assert found["machine"]["cpu"].split()[0] in capsys.readouterr().out


def test_extras_are_read_from_the_metadata() -> None:
    assert doctor.needed_by("x86", REQUIREMENTS) == ("onnxruntime",)
    assert doctor.needed_by("convert-x86", REQUIREMENTS) == ("onnxruntime", "flatbuffers")
    assert doctor.needed_by("build", REQUIREMENTS) == ()
    states = {state.name: state for state in doctor.extra_states(REQUIREMENTS)}
    assert states["arm64"].missing == ("no-such-library-here",)
    assert states["build"].missing == ()
    assert "pip install" in states["arm64"].install and "[arm64]" in states["arm64"].install


def test_install_command_names_the_checkout_or_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/py")
    monkeypatch.setattr(doctor, "checkout_path", lambda: "/a b/repo")
    assert doctor.install_command("x86") == "/py -m pip install -e '/a b/repo[x86]'"
    monkeypatch.setattr(doctor, "checkout_path", lambda: None)
    assert doctor.install_command("x86") == "/py -m pip install 'edgebert[x86]'"


@pytest.mark.parametrize(
    ("architecture", "target", "runs", "native"),
    [
        ("x86_64", "x86", True, True),
        ("x86_64", "arm64", True, False),
        ("aarch64", "arm64", True, True),
        ("x86_64", "int8-sparse", True, True),
        ("aarch64", "int8-sparse", True, True),
        ("riscv64", "x86", False, False),
    ],
)
def test_what_runs_where(
    machine: MachineFacts, architecture: str, target: str, runs: bool, native: bool
) -> None:
    state = doctor.target_state(target, replace(machine, architecture=architecture))
    assert (state.runs, state.native) == (runs, native)
    assert state.note


def test_a_target_that_does_not_load_is_reported(machine: MachineFacts) -> None:
    state = doctor.target_state("nope", machine)
    assert not state.runs and state.note.startswith("cannot be loaded: unknown target 'nope'")


def test_exit_code_when_nothing_can_run(
    monkeypatch: pytest.MonkeyPatch, machine: MachineFacts, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "machine_facts", lambda: replace(machine, architecture="riscv64"))
    assert run(["doctor", "--json"]) == errors.EXIT_MISSING_EXTRA
    printed = capsys.readouterr()
    assert json.loads(printed.out)["can_run"] is False
    assert "no target can run here" in printed.err


def test_compiler_is_cxx_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "my-c++"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    monkeypatch.setenv("CXX", f"{own} -O2")
    assert doctor.find_compiler() == str(own)
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.find_compiler() is None
