"""Optuna's own sampler tests, on this project's sampler. Their objectives report nothing, and it says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase

from autoaccel import TimeToTargetSampler

pytestmark = pytest.mark.filterwarnings("ignore:trial .* reported nothing:UserWarning")


class TestTimeToTargetSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """A fixed training length: the kit's objectives have no parameter that sets it."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: TimeToTargetSampler(0.9, 10, seed=0)
