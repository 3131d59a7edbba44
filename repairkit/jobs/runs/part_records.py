"""The parts of the data as `run.json` and `report.json` tell them, and whether two agree.

Runs of earlier versions tell no digest of their parts, and what they left open was a fifth of the
images for means, two fifths to choose and two fifths to test.
"""

from dataclasses import asdict

from repairkit.data.dataset import Dataset
from repairkit.data.parts import PART_NAMES, PartPlan, Parts
from repairkit.formats.run_file import RunDocument, RunParts

_EARLIER = {"calibration": 0.2, "selection": 0.4, "test": 0.4}


def told_parts(parts: Parts) -> RunParts:
    """The entry `parts`: one sentence, which parts share images, and how many images each holds."""
    return {
        "how": parts.summary,
        "overlaps": [list(pair) for pair in parts.overlaps],
        "digest": parts.digest,
        "calibration": len(parts.calibration),
        "selection": len(parts.selection),
        "test": len(parts.test),
    }


def keyed_parts(plan: PartPlan, parts: Parts, dataset: Dataset) -> dict[str, str | float | None]:
    """The parts as the key of a run holds them.

    Keys of earlier versions hold None for a part that was left open. So a run of an earlier version
    resumes only if its shares are given explicitly.
    """
    splits = set() if dataset.split is None else set(dataset.split.tolist())
    keyed: dict[str, str | float | None] = {}
    for name, wish in asdict(plan).items():
        if name in parts.left_open:
            keyed[name] = "left open"
        else:
            earlier = name not in splits and str(wish).strip() == str(_EARLIER[name])
            keyed[name] = None if earlier else wish
    return keyed


def recorded_plan(run: RunDocument) -> PartPlan:
    """The plan that makes the parts of a run again, for a run of any version."""
    known, recorded = run["settings"].get("parts") or {}, run["parts"]
    plan = {name: known.get(name) for name in PART_NAMES}
    if not recorded.get("digest"):
        for name, share in _EARLIER.items():
            if plan[name] is None and f"{name}: a share of {share:g}" in str(recorded.get("how")):
                plan[name] = share
    return PartPlan(**plan)


def same_parts(run: RunDocument, plan: PartPlan, parts: Parts) -> bool:
    """Whether a run on the same data had the same images in each part as a job of this plan has."""
    theirs, ours = run["parts"], told_parts(parts)
    if theirs.get("digest"):
        return theirs["digest"] == ours["digest"]
    if theirs.get("how"):
        return theirs["how"] == ours["how"]
    counts = [theirs.get(name) for name in PART_NAMES] == [ours.get(name) for name in PART_NAMES]
    return counts and bool(run["settings"].get("parts") == asdict(plan))


def are_other_parts(run: RunDocument, other: RunDocument) -> bool:
    """Whether two runs on the same data record that their parts hold different images."""
    same_data = run["data"]["digest"] == other["data"]["digest"]
    same_seed = run["settings"].get("seed") == other["settings"].get("seed")
    one, two = run["parts"].get("how"), other["parts"].get("how")
    return bool(same_data and same_seed and one and two and one != two)


def parts_in_words(run: RunDocument) -> str:
    """How the parts of a run were made."""
    return str(run["parts"].get("how") or run["settings"].get("parts")).rstrip(".")


def options_in_words(run: RunDocument) -> str:
    """`: OPTIONS are the run's`, the options that give its parts again."""
    plan = asdict(recorded_plan(run))
    given = " ".join(f"--{name} {wish}" for name, wish in plan.items() if wish is not None)
    return f": {given} are the run's" if given else ": the run was made without options for parts"
