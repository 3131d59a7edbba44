"""What to freeze: scores in, patches out; pure."""

from repairkit.repairs.crossfit import (
    Bound,
    Columns,
    Criterion,
    Folds,
    assign_folds,
    gain_of_choice,
    gain_of_columns,
    look,
    widen,
    widening,
)
from repairkit.repairs.cure import (
    BEST,
    BestCure,
    ChosenPatch,
    Cure,
    Cured,
    Nothing,
    Remembered,
    Story,
)
from repairkit.repairs.propose import Trial, choose, make_patch, propose_patches
from repairkit.repairs.search import Answer, Frozen, Screened, Search, SearchSettings, Step

__all__ = [
    "BEST",
    "Answer",
    "BestCure",
    "Bound",
    "ChosenPatch",
    "Columns",
    "Criterion",
    "Cure",
    "Cured",
    "Folds",
    "Frozen",
    "Nothing",
    "Remembered",
    "Screened",
    "Search",
    "SearchSettings",
    "Step",
    "Story",
    "Trial",
    "assign_folds",
    "choose",
    "gain_of_choice",
    "gain_of_columns",
    "look",
    "make_patch",
    "propose_patches",
    "widen",
    "widening",
]
