"""What every test has: bounded property tests with the same examples each time."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "wain",
    deadline=None,
    # The same examples each time; `make soak` looks for new ones.
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("wain")

# A shell that starts the tests in the background has them ignore interrupts, and so would the programs they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
