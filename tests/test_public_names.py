"""The public names of the package are there, and loaded when first used."""

import re

import pytest

import brickyard


@pytest.mark.parametrize("name", brickyard.__all__)
def test_public_name_resolves(name: str):
    assert getattr(brickyard, name) is not None
    assert name in dir(brickyard)


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match=r"no attribute 'Brik'; it has .*Brick"):
        brickyard.Brik  # noqa: B018


def test_version_is_the_installed_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+", brickyard.__version__)
