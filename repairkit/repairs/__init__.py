"""What to freeze: scores in, patches out; pure."""

from repairkit.repairs.choose import Trial, choose
from repairkit.repairs.crossfit import (
    Bound,
    Columns,
    Criterion,
    Folds,
    assign_folds,
    gain_of_choice,
    gain_of_columns,
    look,
    widening,
)
from repairkit.repairs.propose import make_patch, propose_patches
from repairkit.repairs.search import Answer, Frozen, Screened, Search, SearchSettings, Step

__all__ = [
    "Answer",
    "Bound",
    "Columns",
    "Criterion",
    "Folds",
    "Frozen",
    "Screened",
    "Search",
    "SearchSettings",
    "Step",
    "Trial",
    "assign_folds",
    "choose",
    "gain_of_choice",
    "gain_of_columns",
    "look",
    "make_patch",
    "propose_patches",
    "widening",
]
