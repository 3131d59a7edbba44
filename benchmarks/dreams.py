"""What dreams by forward passes cost, and how far they exceed real images.

    python -m benchmarks.dreams MODEL... [--data IMAGES.npz] [--filters 50] [--scale 1/255]

Filters are drawn at random. Seconds are those that cores compute, so that they hold on a busy
machine too.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from repairkit.api.job_settings import find_settings
from repairkit.jobs.dream.dream import DreamSettings
from repairkit.jobs.dream.dreaming import dream_filters
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.unjudged import prepare_unjudged


def main() -> None:
    """Print a line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--filters", type=int, default=50)
    parser.add_argument("--scale", default="1")
    parser.add_argument("--mean", default="0")
    given = parser.parse_args()
    for model in given.models:
        words = {"preprocessing": {"scale": given.scale, "mean": given.mean}}
        settings = replace(find_settings(model, words), data=given.data, absent="zero")
        bench = prepare_unjudged(read_subject(model), settings)
        rng = np.random.default_rng(1)
        n = min(given.filters, len(bench.roster))
        columns = np.sort(rng.choice(len(bench.roster), n, replace=False))
        filters = [bench.roster.filters[column] for column in columns.tolist()]
        began, wall = time.process_time(), time.perf_counter()
        dreams = dream_filters(bench, filters, DreamSettings())
        spent, lasted = time.process_time() - began, time.perf_counter() - wall
        print(
            f"{model.stem}: {n} filters of {len({f.site for f in filters})} sites, "
            f"{spent:.1f} s of cores, {spent / n:.2f} s a filter, {lasted:.1f} s in all, "
            f"{sum(dream.passes for dream in dreams) / n:.0f} passes a filter"
        )
        above = [dream.excess for dream in dreams if dream.excess is not None]
        controls = [dream.control_excess for dream in dreams if dream.control_excess is not None]
        if above:
            print(
                f"  median excess {np.median(above):.1f}, above every image "
                f"{np.mean(np.array(above) > 0):.0%}, median of controls {np.median(controls):.1f}"
            )
        gains = [dream.response > dream.control for dream in dreams if dream.control is not None]
        print(f"  above its control: {np.mean(gains):.0%}")


if __name__ == "__main__":
    main()
