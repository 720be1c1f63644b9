"""One thread of linear algebra, for a while."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import brickyard.search.predictors.gaussian as gaussian
from brickyard.search.threads import one_blas_thread


def threads():
    return {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    with threadpool_limits(limits=2, user_api="blas"):
        if threads() != {2}:
            pytest.skip("the libraries of linear algebra here have one thread")
        yield


def test_one_thread_and_then_as_before(two_threads):
    with one_blas_thread():
        assert threads() == {1}
    assert threads() == {2}


def test_as_before_after_an_error(two_threads):
    with pytest.raises(ValueError, match="why"), one_blas_thread():
        raise ValueError("why")
    assert threads() == {2}


def test_a_process_is_fitted_with_one_thread(two_threads, monkeypatch, rng):
    seen = set()
    loss = gaussian._loss

    def watched(*arguments):
        seen.update(threads())
        return loss(*arguments)

    monkeypatch.setattr(gaussian, "_loss", watched)
    gaussian.GaussianProcess().fit(rng.random((8, 2)), np.arange(8.0))
    assert seen == {1}
    assert threads() == {2}
