"""The faults that fivestage is tested against, and its promise for each."""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """A fault and its promise."""

    title: str
    promise: str


FAULTS: dict[int, Fault] = {
    1: Fault("a broker restarts", "it goes on when the broker is back; nothing lost"),
    2: Fault("all brokers away for 10 minutes", "no exit, memory bounded, catches up, nothing lost"),
    3: Fault("the leader of a partition moves", "a short gap, nothing lost"),
    4: Fault("the group's coordinator moves or is away", "commits resume, none of an earlier assignment"),
    5: Fault("an instance joins under load", "handed over or redelivered, never lost; no stale commit"),
    6: Fault("an instance leaves", "what it finished is committed, nothing answered twice"),
    7: Fault("instances join and leave all the time", "progress, few answered twice"),
    8: Fault("giving up partitions takes too long", "an expelled member commits nothing stale"),
    9: Fault("a partition is taken and given back", "each record once per assignment"),
    10: Fault("SIGTERM under load", "finishes, commits, ends with 0 in time; a second one ends at once"),
    11: Fault("SIGKILL at any moment", "nothing lost, few answered twice"),
    12: Fault("SIGKILL between answer and commit", "answered again under the same id"),
    13: Fault("stopped for longer than its session, then continued", "no commit for what it has lost"),
    14: Fault("the event loop is blocked", "late queries end as timeouts, it rejoins, nothing lost"),
    15: Fault("a stage ignores its cancellation or never returns", "its query ends in time; counted, capped"),
    16: Fault("a stage raises anything, or returns garbage", "an error event; nothing else suffers"),
    17: Fault("a thread is stuck", "deadlines hold, the pool is not used up, the exit is bounded"),
    18: Fault("a backlog of expired queries", "each has its expired event, none runs"),
    19: Fault("clocks jump, or disagree", "running deadlines do not move; ages are clamped and counted"),
    20: Fault("a backlog of 100,000", "memory bounded, worked off"),
    21: Fault("slow stages, fast input", "fetching pauses, the member stays in its group"),
    22: Fault(
        "an output topic is missing, or deleted later",
        "ends at the start, unready later, with the reason; nothing committed",
    ),
    23: Fault("no right to a topic or the group", "a clear message, an exit code, nothing committed"),
    24: Fault("a result too large for its topic", "an error event that says so"),
    25: Fault("the broker acknowledges slowly", "fetching waits, memory bounded"),
    26: Fault("an acknowledgement is lost", "at most the same event again, under the same id"),
    27: Fault("the producer is beyond repair", "a new one, and everything unfinished is published"),
    28: Fault("the same query twice", "both records finish; the answers tell their records apart"),
    29: Fault("poison payloads", "one rejection each, never a crash, never an echo"),
    30: Fault("poison on the wire", "named and skipped; other partitions lose nothing"),
    31: Fault("poison headers", "ignored beyond limits; a new trace begins"),
    32: Fault("retention outran the reader", "loud, counted, and it goes on"),
    33: Fault("the committed position is gone or moved", "from the earliest record on; no negative lag"),
    34: Fault(
        "names do not resolve, at the start or later", "ends, and says why; later: waits, unready, recovers"
    ),
    35: Fault("TLS: expired, wrong authority or host, no client certificate, plain port", "refused, and why"),
    36: Fault("credentials change, or their provider hangs", "reconnects, bounded"),
    37: Fault("the network swallows everything", "recovers; other brokers are not delayed"),
    38: Fault("the client's background task dies", "noticed; repaired, or the process ends"),
    39: Fault("unknown error codes, garbage frames", "rebuilt or ended, no busy loop, few log lines"),
    40: Fault("disk full, no stdout, port taken", "goes on, or ends with a reason"),
    41: Fault("brokers move, certificates are rotated", "both clients are rebuilt; nothing lost"),
}
