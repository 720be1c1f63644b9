"""Scans of handwritten digits that scikit-learn carries: 1,797 grey images of 8 x 8 pixels, ten classes.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import numpy as np

from brickyard.core.errors import MissingExtraError
from brickyard.core.task import Vocabulary
from brickyard.data._split import normalisation, stratified
from brickyard.data.examples import Examples, Preprocess

SIZE = 16


def load_digits(
    *, heldout_share: float = 0.2, seed: int = 0
) -> tuple[Vocabulary, Preprocess, Examples, Examples]:
    """Load the digits, each pixel doubled in both directions to 16 x 16, and split them.

    Args:
        heldout_share: Share of each class that is held out, above 0, below 1.
        seed: Seed of the split.

    Returns:
        Classes "0" to "9", preprocessing, training examples and held-out examples.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise MissingExtraError("scikit-learn", extra="train") from None
    bundle = load()
    shades = np.rint(bundle.images * (255 / 16)).astype(np.uint8)
    images = shades.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)[..., None]
    examples = Examples(images, bundle.target.astype(np.int16).reshape(-1, 1, 1))
    heldout = stratified(examples.classes, share=heldout_share, seed=seed)
    mean, std = normalisation(images[~heldout])
    preprocess = Preprocess(SIZE, SIZE, 1, mean, std)
    vocabulary = Vocabulary("classes", {"class": tuple("0123456789")})
    return vocabulary, preprocess, examples.subset(~heldout), examples.subset(heldout)
