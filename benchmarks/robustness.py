"""What freezing filters does for a network under attack: the paper's table, on Fashion-MNIST.

Three networks of different architecture are trained (see `attacked.py`). The first is exported to
ONNX and attacked through its own gradients and through those of the others, all by the same PGD with
random targets; then `repairkit patch --robustness` scores its filters on the selection images and
freezes those that serve the adversary. The table is of the test images, which chose nothing.

    python benchmarks/robustness.py
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "adapters")]

from benchmarks.attacked import NETWORKS, make
from benchmarks.trained import CACHE, fashion
from repairkit.core.framework import FrameworkModel
from repairkit.data import Preprocessing
from repairkit.workflows.attack_file import read_attack_settings
from repairkit.workflows.attack_story import FreshAttacks
from repairkit.workflows.attacking import AttackSettings, attack
from repairkit.workflows.patching import Patched, PatchSettings, patch
from repairkit.workflows.settings import Settings
from repairkit.workflows.subject import read_subject
from repairkit_adapters.pytorch import wrap

SHAPE = (1, 28, 28)
PARTS = {"calibration": 1000, "selection": 2000, "test": 2000}


def write_images(folder: Path) -> Path:
    """The first judging images, split into parts in their order."""
    images, n = fashion(), sum(PARTS.values())
    path = folder / "images.npz"
    split = np.repeat(list(PARTS), list(PARTS.values()))
    np.savez(path, x=images.judge_pixels[:n], y=images.judge_labels[:n], split=split)
    return path
