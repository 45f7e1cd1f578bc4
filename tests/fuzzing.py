"""How many cases a fuzz test tries: few in the suite, ten thousand at night."""

import os

from hypothesis import HealthCheck, settings

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
NIGHTLY_CASES = 10_000


def cases(count: int) -> settings:
    """Settings of a fuzz test that tries `count` cases in the suite."""
    return settings(
        max_examples=NIGHTLY_CASES if NIGHTLY else count,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
