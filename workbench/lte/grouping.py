"""Cut a layer's FFN neurons into experts of 32: which neurons stand together (LTE, section 4.1).

A grouping is an int array [experts, 32] of neuron numbers, a permutation of range(inner).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

NEURONS = 32
Method = Literal["kmeans", "coactivation", "sized", "fisher", "random"]
CLASSES = 4  # of size
FELT_CLASSES = 8
Grouping = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]


def random_groups(inner: int, seed: int) -> Grouping:
    """Neurons dealt out at random: the control that any other grouping has to beat."""
    _check_width(inner)
    return np.random.default_rng(seed).permutation(inner).reshape(-1, NEURONS)


def kmeans_groups(features: Floats, seed: int, rounds: int = 12) -> Grouping:
    """Balanced k-means of `features` [inner, d]: exactly 32 neurons a cluster.

    The paper's feature of a neuron is its row of the gate matrix, here scaled to length one. Lloyd's rounds with a
    greedy assignment that fills clusters in the order of who would lose most; the last round is an exact assignment.
    """
    from scipy.optimize import linear_sum_assignment

    inner = features.shape[0]
    _check_width(inner)
    points = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    experts = inner // NEURONS
    centres = _spread(points, experts, np.random.default_rng(seed))
    for _ in range(rounds):
        owner = _greedy(_distances(points, centres))
        moved = np.stack([points[owner == e].mean(axis=0) for e in range(experts)])
        if np.allclose(moved, centres, atol=1e-7):
            break
        centres = moved
    _, seat = linear_sum_assignment(np.repeat(_distances(points, centres), NEURONS, axis=1))
    return np.argsort(seat // NEURONS, kind="stable").reshape(experts, NEURONS)


def coactivation_groups(activations: Floats, seed: int, width: int = 256) -> Grouping:
    """Neurons that fire together: balanced k-means of each neuron's |activation| over `activations` [tokens, inner].

    Profiles longer than `width` tokens are projected onto that many random directions, which keeps their angles.
    """
    profiles = np.abs(activations).T  # [inner, tokens]
    if profiles.shape[1] > width:
        draw = np.random.default_rng(seed)
        profiles = profiles @ (draw.standard_normal((profiles.shape[1], width)) / np.sqrt(width))
    return kmeans_groups(profiles, seed)


def sized_groups(contributions: Floats, seed: int, classes: int = CLASSES) -> Grouping:
    """Great with great, small with small, and in each class of size those that fire together. Ours.

    contributions: [tokens, inner], what a neuron adds to the output, |h_i| times the length of its column of W_down.
    k-means of directions mixes neurons of all sizes into an expert, so that few experts are small; here the same best
    half of the experts holds more of the output.
    """
    inner = contributions.shape[1]
    _check_width(inner)
    order = np.argsort(-np.square(contributions).mean(axis=0), kind="stable")
    parts = np.array_split(order.reshape(-1, NEURONS), min(classes, inner // NEURONS))
    return np.concatenate([p.ravel()[coactivation_groups(contributions[:, p.ravel()], seed)] for p in parts])


def check_grouping(grouping: Grouping, inner: int) -> None:
    """ValueError when `grouping` is not a permutation of range(inner) in rows of 32."""
    _check_width(inner)
    if grouping.shape != (inner // NEURONS, NEURONS):
        raise ValueError(
            f"a grouping of {inner} neurons is [{inner // NEURONS}, {NEURONS}], not {list(grouping.shape)}"
        )
    if not np.array_equal(np.sort(grouping.ravel()), np.arange(inner)):
        raise ValueError(f"a grouping names each of the {inner} neurons exactly once; this one does not")


def spread_within(features: Floats, grouping: Grouping) -> float:
    """Share of the features' variance that stays within experts, 0 (all alike) to 1: what k-means makes small."""
    points = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    groups = points[grouping]  # [experts, 32, d]
    inside = np.square(groups - groups.mean(axis=1, keepdims=True)).sum()
    return float(inside / np.square(points - points.mean(axis=0)).sum())


def _check_width(inner: int) -> None:
    if inner <= 0 or inner % NEURONS:
        raise ValueError(f"the MLP has {inner} neurons: experts of {NEURONS} need a multiple of {NEURONS}")


def _distances(points: Floats, centres: Floats) -> Floats:
    """Squared distances [inner, experts], up to the points' own lengths."""
    return np.square(centres).sum(axis=1) - 2 * points @ centres.T


def _spread(points: Floats, experts: int, draw: np.random.Generator) -> Floats:
    """First centres, drawn far from each other (k-means++)."""
    chosen = [int(draw.integers(len(points)))]
    nearest = np.square(points - points[chosen[0]]).sum(axis=1)
    while len(chosen) < experts:
        total = nearest.sum()
        weights = nearest / total if total > 0 else np.full(len(points), 1 / len(points))
        chosen.append(int(draw.choice(len(points), p=weights)))
        nearest = np.minimum(nearest, np.square(points - points[chosen[-1]]).sum(axis=1))
    return points[chosen]


def _greedy(distances: Floats) -> Grouping:
    """Each neuron's expert, 32 to each: those go first who are furthest from having a second choice."""
    inner, experts = distances.shape
    best = np.partition(distances, 1, axis=1) if experts > 1 else np.repeat(distances, 2, axis=1)
    order = np.argsort(best[:, 0] - best[:, 1], kind="stable")
    wishes = np.argsort(distances, axis=1, kind="stable")
    room = np.full(experts, NEURONS)
    owner = np.empty(inner, dtype=np.int64)
    for neuron in order:
        expert = next(e for e in wishes[neuron] if room[e])
        owner[neuron] = expert
        room[expert] -= 1
    return owner
