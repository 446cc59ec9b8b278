# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: as many damaged discovery controllers as asked for; the first one that does harm ends it."""

from collections import Counter

from .mutations import answers
from .numbers import run_all
from .trial import run

if __name__ == "__main__":
    run_all("tests.fuzz", __doc__ or "", lambda number: Counter([run(answers(number))]))
