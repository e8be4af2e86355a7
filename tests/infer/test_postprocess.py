"""Largest components, and regions as one map."""

import numpy as np

from unetkit.infer.postprocess import keep_largest


def test_keeps_the_largest_of_each_class():
    labels = np.zeros((1, 6, 12), np.uint8)
    labels[0, 0:2, 0:2] = 1
    labels[0, 0:3, 6:9] = 1
    labels[0, 5, 0:3] = 2
    labels[0, 5, 6:8] = 2
    got = keep_largest(labels)
    want = labels.copy()
    want[0, 0:2, 0:2] = 0
    want[0, 5, 6:8] = 0
    assert np.array_equal(got, want)


def test_corners_connect_and_ties_keep_the_first():
    diagonal = np.eye(5, dtype=np.uint8)[None]
    assert np.array_equal(keep_largest(diagonal), diagonal)
    two = np.array([[[1, 0, 1]]], np.uint8)
    assert keep_largest(two).tolist() == [[[1, 0, 0]]]


def test_each_region_by_itself_and_nothing_from_nothing():
    regions = np.array([[[1, 1, 0, 1]], [[0, 1, 0, 1]]], np.uint8)
    assert keep_largest(regions).tolist() == [[[1, 1, 0, 0]], [[0, 1, 0, 0]]]
    assert not keep_largest(np.zeros((1, 3, 3, 3), np.uint8)).any()
