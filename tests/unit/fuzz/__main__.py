"""Fuzz for long: ``cd tests; python -m unit.fuzz decoder --runs 1000000``.

With atheris installed it is guided by coverage, otherwise by mutation with a fixed seed.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Parse the command line, and fuzz."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("target", choices=["decoder", "batches"])
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=int, default=600, help="end then at the latest")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutate", action="store_true", help="by mutation, also where atheris is installed")
    options = parser.parse_args()
    if options.mutate or importlib.util.find_spec("atheris") is None:
        by_mutation(options.target, options.runs, options.seconds, options.seed)
    else:
        by_coverage(options.target, options.runs, options.seconds, options.seed)


def by_mutation(name: str, runs: int, seconds: int, seed: int) -> None:
    """Run mutations of the corpus, and print their number."""
    from . import corpus, mutate, targets  # noqa: PLC0415 - atheris must be loaded before the modules that it instruments

    seeds = corpus.decoder_seeds() if name == "decoder" else corpus.batch_seeds()
    target, started, done = targets.TARGETS[name], time.monotonic(), 0
    for data in mutate.mutations(seeds, runs, seed):
        try:
            target(corpus.sealed(data) if name == "batches" and done % 4 else data)
        except BaseException:
            sys.stderr.write(f"input {done} of seed {seed}: {data!r}\n")
            raise
        done += 1
        if not done % 1000 and time.monotonic() - started > seconds:
            break
    sys.stdout.write(f"{name}: {done} inputs in {time.monotonic() - started:.0f} s, seed {seed}\n")


def by_coverage(name: str, runs: int, seconds: int, seed: int) -> None:
    """Let atheris search for inputs with new coverage."""
    import atheris  # type: ignore[import-untyped] # noqa: PLC0415 - no dependency; see above

    with atheris.instrument_imports(
        include=["fivestage.core.codec.decode", "fivestage.kafka.consumer.batch_check"]
    ):
        from . import corpus, targets  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seeds = corpus.decoder_seeds() if name == "decoder" else corpus.batch_seeds()
    for number, data in enumerate(seeds):
        (folder / str(number)).write_bytes(data)
    words = "".join('"' + "".join(map("\\x{:02x}".format, word)) + '"\n' for word in corpus.WORDS)
    (folder.parent / f"{folder.name}.dict").write_text(words)

    def one(data: bytes) -> None:
        targets.TARGETS[name](corpus.sealed(data) if name == "batches" and len(data) % 4 else data)

    arguments = [
        f"-runs={runs}",
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        "-max_len=4096",
        f"-artifact_prefix={folder.parent / folder.name}-",
        f"-dict={folder.parent / folder.name}.dict",
        str(folder),
    ]
    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
