# SPDX-License-Identifier: Apache-2.0
"""Trials by number, as many as asked for: the first one that fails ends them, and can be repeated by its number."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable


def run_all(module: str, what: str, trial: Callable[[int], Counter[str]]) -> None:
    """Run the trials that the command line asks for; ``trial`` returns what it came to."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=what)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first; the same number is the same trial")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    slowest = (0.0, 0)
    started = time.monotonic()
    for number in range(options.first, options.first + options.count):
        began = time.process_time()
        try:
            outcomes += trial(number)
        except BaseException:
            print(f"trial {number}; to repeat it: python -m {module} --first {number} --count 1", file=sys.stderr)
            raise
        slowest = max(slowest, (time.process_time() - began, number))
    seconds = time.monotonic() - started
    shown = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(
        f"{module}, {options.count} trials: {shown}; "
        f"{seconds:.0f} s, the longest {slowest[0] * 1000:.0f} ms (trial {slowest[1]})"
    )
