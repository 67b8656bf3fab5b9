from collections.abc import Sequence
from itertools import pairwise, permutations
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import qmc

from scattershot_common.seeds import derive
from scattershot_common.space.space import Box
from scattershot_common.study.settings import Sampler
from scattershot_master.samplers import SAMPLERS, sobol

NAMES = sorted(SAMPLERS)


def draw(name: str, seed: int, stage: str, index: int, dims: int) -> Sequence[float]:
    """Return one point of a stage."""
    box = Box((((0.0, 1.0),),) * dims)
    (point,) = SAMPLERS[name](seed, stage, box).ask(index, 1)
    return point


def points(name: str, count: int, dims: int = 2, seed: int = 0) -> np.ndarray:
    return np.array([draw(name, seed, "coarse", i, dims) for i in range(count)])


def test_the_study_file_may_name_every_sampler_and_no_other() -> None:
    assert set(SAMPLERS) == set(get_args(Sampler))


@pytest.mark.parametrize("name", NAMES)
def test_points_asked_for_together_are_those_asked_for_one_by_one(name: str) -> None:
    box = Box((((0.0, 1.0),),) * 3)
    together = SAMPLERS[name](1, "coarse", box).ask(5, 70)
    assert np.array_equal(together, [draw(name, 1, "coarse", i, 3) for i in range(5, 75)])
    assert SAMPLERS[name](1, "coarse", box).ask(0, 0) == []


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(seed=st.integers(0, 2**63 - 1), index=st.integers(0, 5000), dims=st.integers(0, 12))
def test_a_point_lies_in_the_half_open_unit_cube(
    name: str, seed: int, index: int, dims: int
) -> None:
    point = draw(name, seed, "coarse", index, dims)
    assert len(point) == dims
    assert all(type(u) is float and 0 <= u < 1 for u in point)


@pytest.mark.parametrize("name", NAMES)
def test_a_point_is_the_same_in_whatever_order_points_are_asked_for(name: str) -> None:
    asked = [0, 63, 64, 200]
    seen = []
    for order in permutations(asked):
        sobol._sequence.cache_clear()
        drawn = {i: draw(name, 3, "coarse", i, 4) for i in order}
        seen.append([drawn[i] for i in asked])
    assert all(one == other for one, other in pairwise(seen))


@pytest.mark.parametrize("name", NAMES)
def test_points_differ_by_seed_by_stage_and_by_index(name: str) -> None:
    one, *others = (
        draw(name, 0, "coarse", 5, 3),
        draw(name, 1, "coarse", 5, 3),
        draw(name, 0, "fine", 5, 3),
        draw(name, 0, "coarse", 6, 3),
    )
    assert one not in others


@pytest.mark.parametrize("name", NAMES)
def test_points_stay_what_they_were_in_earlier_versions(name: str) -> None:
    """A study that is resumed after an upgrade must go on with its own points."""
    expected = {
        "random": [0.1845825053071498, 0.6042504658578357],
        "sobol": [0.06183331646025181, 0.29087068513035774],
    }
    assert draw(name, 0, "coarse", 7, 2) == pytest.approx(expected[name], abs=1e-12)


def test_sobol_points_fill_the_cube_more_evenly_than_random_ones() -> None:
    for seed in range(3):
        even = qmc.discrepancy(points("sobol", 256, 3, seed))
        uneven = qmc.discrepancy(points("random", 256, 3, seed))
        assert even < uneven / 5


def test_sobol_points_are_those_of_one_uninterrupted_scrambled_sequence() -> None:
    rng = np.random.default_rng(derive(0, "sobol", "coarse"))
    assert (points("sobol", 300, 5) == qmc.Sobol(5, seed=rng).random(512)[:300]).all()
