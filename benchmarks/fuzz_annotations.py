"""Damaged annotation files: each gives clips and reasons, or one error that names it, in ten seconds and without a
crash.

`python benchmarks/fuzz_annotations.py --cases 600 --seed 0` prints a JSON object. The samples, the damage and what is
checked are those of
tests/test_records.py, which runs a few cases of each kind.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_records import check_damaged, damage, samples

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, good, outcomes, slowest, failures = random.Random(args.seed), samples(), Counter(), 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(args.cases):
            name = list(good)[k % len(good)]
            began = time.perf_counter()
            try:
                outcomes[check_damaged(Path(folder) / str(k), name, damage(good[name], rng), good)] += 1
            except Exception as e:
                failures.append(f"case {k}, {name}: {type(e).__name__}: {e}")
            slowest = max(slowest, time.perf_counter() - began)
    print(
        json.dumps(
            {
                "cases": args.cases,
                "seed": args.seed,
                "kinds": len(good),
                "outcomes": outcomes,
                "slowest_seconds": round(slowest, 2),
                "failures": failures,
            },
            indent=1,
        )
    )
    sys.exit(bool(failures or slowest > 10))
