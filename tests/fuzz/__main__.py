# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: as many damaged discovery controllers as asked for; the first one that does harm ends it."""

import argparse
import sys
import time
from collections import Counter

from .mutations import answers
from .trial import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first; the same number is the same trial")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    slowest = (0.0, 0)
    started = time.monotonic()
    for number in range(options.first, options.first + options.count):
        began = time.process_time()
        try:
            outcomes[run(answers(number))] += 1
        except BaseException:
            print(
                f"fuzz: trial {number}; to repeat it: python -m tests.fuzz --first {number} --count 1", file=sys.stderr
            )
            raise
        slowest = max(slowest, (time.process_time() - began, number))
    seconds = time.monotonic() - started
    shown = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"fuzz: {shown}; {seconds:.0f} s, the longest {slowest[0] * 1000:.0f} ms (trial {slowest[1]})")


if __name__ == "__main__":
    main()
