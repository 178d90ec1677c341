"""The cost of an idle service, with default settings."""

from __future__ import annotations

from .entries import FIVESTAGE, Contestant, other, service, with_python
from .parts import PARTITIONS, Bar, Options, Part
from .place import places
from .rates import FETCH_WAIT_MS, RATED, spend
from .report import table

TIMES_AS_LONG = 2
"""As the other measurements: it has no rounds."""
MAX_SHARE = 1.0
LABELS = {FIVESTAGE: "thread", other(FIVESTAGE): "thread, in the other environment"}


async def measure(options: Options) -> Part:
    """Measure the CPU of an idle service, with threads and with processes."""
    field = {FIVESTAGE: RATED[FIVESTAGE]}
    field |= with_python(field, options.other_python)
    found = {LABELS[name]: await _share(contestant, options) for name, contestant in field.items()}
    if not options.quick:
        processes = service(executor__kind="process", kafka__fetch_max_wait_ms=FETCH_WAIT_MS)
        found["process"] = await _share(Contestant(processes, 1.0), options)
    rows = [[kind, f"{share:.2f}"] for kind, share in found.items()]
    bar = Bar.at_most("CPU with nothing to do, of a core", found["thread"], MAX_SHARE, " %")
    return Part("Idle", found, table(["executor", "% of a core"], rows), [bar])


async def _share(contestant: Contestant, options: Options) -> float:
    """Return its CPU in percent of a core."""
    async with places(1, options.kafka, PARTITIONS) as (place,):
        first, last = await spend(place, contestant, 0, TIMES_AS_LONG * options.seconds)
    return (last.cpu_s - first.cpu_s) / (last.at - first.at) * 100
