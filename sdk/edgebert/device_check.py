"""What a device answered against what this machine answers and what the build recorded. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from edgebert.errors import WrongCpuError
from edgebert.evaluation import largest_difference
from edgebert.figures import DeviceFigures, HostComparison
from edgebert.tasks.package import PackageTask
from edgebert.tasks.rows import Answers
from edgebert_targets.base import Target

T = TypeVar("T")


def spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of `items`, spread evenly over them; all of them for None."""
    if limit is None or limit >= len(items):
        return list(items)
    places = np.linspace(0, len(items) - 1, limit).round().astype(int)
    return [items[place] for place in places.tolist()]


def architecture_notes(target: Target, device: str, architecture: str) -> tuple[str, ...]:
    """A line where `device` is not of the family that the target is meant for. Raises WrongCpuError."""
    meant = " or ".join(target.cpu_architectures)
    if architecture not in target.host_architectures:
        raise WrongCpuError(
            f"{target.backend} packages of target '{target.name}' do not run on '{device}', which is "
            f"{architecture}; give a device that is {meant}"
        )
    if architecture in target.cpu_architectures:
        return ()
    return (f"meant for {meant}, run on '{device}', which is {architecture}: speed and rounding may differ",)


def compare_with_host(
    task: PackageTask, device: Answers, host: Answers, target: Target, kernels: str, host_kernels: str
) -> HostComparison:
    """Two sets of answers to the same rows, one or more.

    Answers of different shapes, because the device tokenises otherwise, are neither identical nor alike.
    """
    pairs = [(a, b) for a, b in zip(device, host, strict=True) if a.shape == b.shape]
    # As integers: -0.0 and 0.0 are different bits.
    bits = [bool((a.view(np.uint32) == b.view(np.uint32)).all()) for a, b in pairs]
    identical = sum(bits)
    return HostComparison(
        examples=len(device),
        identical=identical,
        same_class=sum(task.same(a, b, 0.0) for a, b in pairs),
        max_difference=largest_difference([a for a, _ in pairs], [b for _, b in pairs]),
        host_kernels=host_kernels,
        explanation=explain(identical == len(device), target, kernels, host_kernels),
    )


def explain(identical: bool, target: Target, kernels: str, host_kernels: str) -> str:
    """Where a difference between the two sides comes from, in words."""
    sides = f"{host_kernels} here, {kernels} on the device"
    if kernels == host_kernels:
        sides = f"{kernels} on both sides"
    if identical:
        return f"bit for bit the same ({sides})"
    if exact(target):
        return f"{target.backend} has to give the same bits everywhere and does not ({sides})"
    return (
        f"INT8 products are added exactly on both sides; float steps (scales, softmax, LayerNorm, GELU) are "
        f"rounded in another order, which can move an activation to the next INT8 level ({sides})"
    )


def kernels_by_features(features: Sequence[str]) -> str:
    """XNNPACK does not say which kernels it takes, only that it chooses by these features of the CPU."""
    return f"XNNPACK for {', '.join(features)}" if features else "XNNPACK without INT8 features"


def exact(target: Target) -> bool:
    """Whether every CPU has to give the same bits."""
    return target.golden_tolerance == 0


def count_wrong(ids: Sequence[Sequence[int]] | None, right: Sequence[Sequence[int]]) -> int | None:
    """Examples with other ids than `right`; None where the device has no tokenizer of its own."""
    if ids is None:
        return None
    return sum(tuple(one) != tuple(other) for one, other in zip(ids, right, strict=True))


def device_problems(found: DeviceFigures, target: Target) -> list[str]:
    """A line for each thing that the device has to do and does not; golden examples are counted elsewhere."""
    problems = []
    if found.wrong_tokens:
        problems.append(
            f"the tokenizer on the device gives other ids for {found.wrong_tokens} examples than the host's"
        )
    host = found.host
    if host is not None and exact(target) and host.identical < host.examples:
        different = host.examples - host.identical
        problems.append(
            f"the device's logits differ from the host's for {different} of {host.examples} examples, "
            f"by {host.max_difference:.4g} at most, and have to be the same bits"
        )
    return problems
