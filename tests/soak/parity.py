"""The heavy distributions of tests/real/parity.toml, each installed with wain and with pip and compared."""

from __future__ import annotations

import time

from tests.real.machines.places import remove_tree
from tests.real.parity import batches, load, start_parity


def main(seconds: float) -> None:
    """All of them in the list's order, and no further one once the time is over.

    :raises AssertionError: when one differs from what pip gives.
    """
    began = time.monotonic()
    heavy = batches([one for one in load()[1] if one.heavy])
    with start_parity() as parity:
        for number, batch in enumerate(heavy):
            names = ", ".join(one.requirement for one in batch)
            if time.monotonic() - began > seconds:
                left = len(heavy) - number
                print(f"time is over: {left} left out, from {names} on", flush=True)
                return
            compared = parity.compare(batch)
            told = "\n".join(str(one) for one in compared.differences[:20])
            assert not compared.differences, f"{names}: {len(compared.differences)} differences\n{told}"
            print(f"{names}: {compared.files} files as with pip", flush=True)
            remove_tree(compared.image.parent)
