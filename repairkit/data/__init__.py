"""Suites from folders, manifests and arrays.

`find_project` finds the settings beside the model, `read_data` reads images and annotations, and
`split_parts` draws the parts in which they are used.
"""

from repairkit.data.dataset import Dataset
from repairkit.data.part_plan import PART_NAMES, PartPlan
from repairkit.data.parts import Parts, split_parts
from repairkit.data.pixels.preprocessing import Preprocessing
from repairkit.data.pixels.spec import FurtherInput, InputSpec
from repairkit.data.project import PROJECT_FILE, Project, find_project, read_project
from repairkit.data.reader import read_data

__all__ = [
    "PART_NAMES",
    "PROJECT_FILE",
    "Dataset",
    "FurtherInput",
    "InputSpec",
    "PartPlan",
    "Parts",
    "Preprocessing",
    "Project",
    "find_project",
    "read_data",
    "read_project",
    "split_parts",
]
