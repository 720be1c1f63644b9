"""Splits the neurons of a feed-forward network into experts of equal size.

- `kmeans`: neurons with similar keys stay together: balanced k-means on the keys at unit length
  (MoEfication, arXiv 2110.01786; EMoE, arXiv 2310.10908, section 3). Centres start from scikit-learn's
  k-means; then neurons are assigned to centres with equal numbers at the least total distance, and centres
  move to their means.
- `coactivation`: neurons that are active for the same tokens stay together. MoEfication cuts the graph of
  common activity by METIS; here its leading eigenvectors place the neurons, and balanced k-means groups them.
- `random` and `sequential` are controls.

What was computed for the same weights and settings is read from the user's cache folder. Where that cannot be
written, a warning says so.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from brickyard.core.errors import ArtifactError, MissingExtraError, ModularizeError
from brickyard.core.files import cache_folder, read_json, write_json

Partition = Literal["kmeans", "coactivation", "random", "sequential"]
PARTITIONS: tuple[Partition, ...] = ("kmeans", "coactivation", "random", "sequential")
_VERSION = 1  # of what is computed; another one makes kept partitions void
_ROUNDS = 5  # in which centres move to the means of their neurons
_Points = npt.NDArray[np.float32]


def partition_neurons(
    keys_FD: Tensor,
    num_experts: int,
    *,
    method: Partition = "kmeans",
    active_TF: Tensor | None = None,
    seed: int = 0,
    cache: bool = True,
) -> Tensor:
    """Assign each neuron to an expert.

    Args:
        keys_FD: Keys of the neurons, `[neurons, width]`.
        num_experts: Number of experts; must divide the number of neurons.
        method: How neurons are grouped.
        active_TF: Which neurons are active for which tokens of a sample, `[tokens, neurons]`; for
            `coactivation`.
        seed: Seed of the draws.
        cache: Whether to read and keep partitions in the user's cache folder; a folder that cannot be written
            is warned of.

    Returns:
        Expert of each neuron, `[neurons]`.

    Raises:
        ModularizeError: Neurons cannot be split equally, the method is unknown, or it lacks a sample.
        MissingExtraError: scikit-learn is not installed.
    """
    neurons = len(keys_FD)
    if method not in PARTITIONS:
        raise ModularizeError(f"partition = {method!r} is unknown; known: {', '.join(PARTITIONS)}")
    if not 1 <= num_experts <= neurons or neurons % num_experts:
        raise ModularizeError(f"{neurons} neurons cannot be split into {num_experts} experts of equal size")
    if method == "coactivation" and (active_TF is None or not len(active_TF)):
        raise ModularizeError(
            "partition = 'coactivation' needs a sample of inputs; give sample=[inputs, ...]"
        )
    if method == "sequential":
        return torch.arange(neurons) // (neurons // num_experts)
    if method == "random":
        order = torch.randperm(neurons, generator=torch.Generator().manual_seed(seed))
        return order // (neurons // num_experts)
    keys = keys_FD.detach().float().cpu().numpy()
    active = None if active_TF is None or method == "kmeans" else active_TF.cpu().numpy()
    path = _kept_path(keys, active, f"{_VERSION} {method} {num_experts} {seed}")
    if cache and (kept := _read(path, neurons, num_experts)) is not None:
        return torch.from_numpy(kept)
    if active is None:
        points = keys / np.maximum(np.linalg.norm(keys, axis=1, keepdims=True), 1e-12)
    else:
        points = _places(active, num_experts, seed)
    labels = balanced_kmeans(points, num_experts, seed=seed)
    if cache:
        _keep(path, labels)
    return torch.from_numpy(labels)


def _kept_path(keys: _Points, active: npt.NDArray[np.bool_] | None, settings: str) -> Path:
    digest = hashlib.sha256(f"{settings} {keys.shape} ".encode())
    digest.update(np.ascontiguousarray(keys).tobytes())
    if active is not None:
        digest.update(np.packbits(active).tobytes())
    return cache_folder() / "partitions" / f"{digest.hexdigest()}.json"


def _read(path: Path, neurons: int, num_experts: int) -> npt.NDArray[np.int64] | None:
    """Return a kept partition; None where there is none, or one that is broken or cannot be read."""
    try:
        labels = np.asarray(read_json(path), dtype=np.int64)
        counts = np.bincount(labels, minlength=num_experts)
    except (ArtifactError, OSError, ValueError, TypeError):
        return None
    fits = labels.shape == (neurons,) and np.array_equal(counts, [neurons // num_experts] * num_experts)
    return labels if fits else None


def _keep(path: Path, labels: npt.NDArray[np.int64]) -> None:
    """Write a partition into the cache, or warn that it is not kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, labels.tolist())
    except OSError as error:
        warnings.warn(
            f"partitions cannot be kept in {path.parent} ({error.strerror}) and are computed anew each time; "
            "set XDG_CACHE_HOME to a folder that can be written",
            stacklevel=3,
        )


def _places(active: npt.NDArray[np.bool_], num_experts: int, seed: int) -> _Points:
    """Place neurons by the leading eigenvectors of the normalised graph of common activity."""
    try:
        from scipy.sparse.linalg import eigsh
    except ImportError:
        raise MissingExtraError("scipy", extra="train") from None
    together = active.astype(np.float32).T @ active.astype(np.float32)
    np.fill_diagonal(together, 0.0)
    scale = 1 / np.sqrt(np.maximum(together.sum(1), 1.0))
    graph = together * scale[:, None] * scale[None, :]
    start = np.random.default_rng(seed).standard_normal(len(graph)).astype(np.float32)
    _, vectors = eigsh(graph, k=min(num_experts, len(graph) - 1), which="LA", v0=start)
    places: _Points = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return places


def balanced_kmeans(points: _Points, num_groups: int, *, seed: int = 0) -> npt.NDArray[np.int64]:
    """Group points into groups of equal size with a small sum of squared distances to the means.

    Each assignment of points to centres is the best one with equal sizes; it needs a matrix of
    `8 * points**2` bytes.

    Args:
        points: Points `[points, width]`.
        num_groups: Number of groups; divides the number of points.
        seed: Seed of the first centres.

    Returns:
        Group of each point, `[points]`.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
        from sklearn.cluster import KMeans
    except ImportError:
        raise MissingExtraError("sklearn", extra="train") from None
    size = len(points) // num_groups
    found: Any = KMeans(num_groups, n_init=1, max_iter=20, random_state=seed).fit(points)
    centres, best, least = found.cluster_centers_, None, np.inf
    for _ in range(_ROUNDS):
        distances = (centres**2).sum(1)[None] - 2 * points @ centres.T
        # Each centre stands in `size` columns, each of which takes one point.
        _, columns = linear_sum_assignment(np.repeat(distances, size, axis=1))
        labels = columns // size
        centres = np.stack([points[labels == group].mean(0) for group in range(num_groups)])
        spread = float(((points - centres[labels]) ** 2).sum())
        if not spread < least:
            break
        best, least = labels, spread
    assert best is not None
    return np.asarray(best, dtype=np.int64)
