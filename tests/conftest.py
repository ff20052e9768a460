"""What every test has: bounded property tests whose examples do not depend on the clock."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "wain", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("wain")
