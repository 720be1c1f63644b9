"""Augmentations: every picture is a mirrored or shifted one, by as much as the draw says."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from brickyard.train.augment import AUGMENTATIONS, mirror_and_shift, shift


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_each_picture_is_mirrored_and_shifted_on_its_own():
    pictures = torch.rand(60, 2, 16, 12)
    changed = mirror_and_shift(pictures, generator())
    assert changed.shape == pictures.shape
    padded = F.pad(pictures, (2, 2, 2, 2), mode="reflect")
    found = set()
    for before, after in zip(padded, changed, strict=True):
        cuts = {
            (mirrored, row, column): before[:, row : row + 16, column : column + 12]
            for mirrored, row, column in product((False, True), range(5), range(5))
        }
        matches = [key for key, cut in cuts.items() if torch.equal(cut.flip(2) if key[0] else cut, after)]
        assert len(matches) == 1
        found.add(matches[0])
    assert len(found) > 25
    assert {mirrored for mirrored, _, _ in found} == {False, True}


def test_shift_moves_the_whole_batch_and_never_mirrors():
    pictures = torch.rand(3, 1, 16, 16)
    padded = F.pad(pictures, (1, 1, 1, 1), mode="replicate")
    moves = [padded[:, :, row : row + 16, column : column + 16] for row in range(3) for column in range(3)]
    seen = set()
    for seed in range(40):
        changed = shift(pictures, generator(seed))
        (place,) = [index for index, moved in enumerate(moves) if torch.equal(moved, changed)]
        seen.add(place)
    assert seen == set(range(9))


@pytest.mark.parametrize("name", [name for name in AUGMENTATIONS if name != "none"])
def test_the_generator_decides(name):
    pictures = torch.rand(8, 1, 16, 16)
    augment = AUGMENTATIONS[name]
    assert torch.equal(augment(pictures, generator(3)), augment(pictures, generator(3)))
    assert any(
        not torch.equal(augment(pictures, generator(3)), augment(pictures, generator(s))) for s in range(4, 8)
    )


def test_none_changes_nothing():
    assert AUGMENTATIONS["none"] is None
