"""What to freeze: scores in, patches out; pure."""

from repairkit.repairs.choose import Trial, choose
from repairkit.repairs.propose import make_patch, propose_patches

__all__ = ["Trial", "choose", "make_patch", "propose_patches"]
