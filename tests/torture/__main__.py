"""python -m tests.torture [NAME ...] [--count N] [--seed S]: run tortures, all of them by default."""

from __future__ import annotations

import argparse
import random
import time
from functools import partial

from rich.console import Console
from rich.progress import Progress

from tests.torture.registry import TORTURES


def main() -> None:
    """One progress bar and one printed figure each; stops at the first violation, with its seed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TORTURES))
    parser.add_argument("--count", type=int, help="cases of each  [default: as many as its target asks]")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="[default: drawn]")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(TORTURES)
    if unknown:
        parser.error(f"there is no torture {', '.join(sorted(unknown))}; there are {', '.join(TORTURES)}")
    for name in arguments.names or TORTURES:
        count = arguments.count or TORTURES[name].count
        start = time.monotonic()
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task(name, total=count)
            figure = TORTURES[name].run(count, arguments.seed, partial(progress.advance, bar))
        print(f"{name}: {figure} (seed {arguments.seed}, {time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
