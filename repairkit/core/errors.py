"""Every error that repairkit raises on purpose, and the exit code that each one ends with.

Exit codes stand in brackets:

    RepairkitError (1)            something the user can mend
    ├── ModelError                the model cannot be read, or is not what a command needs
    ├── DataError                 images, labels, groups or their files
    │   └── PreprocessingError    images are probably not prepared as the model expects
    ├── SettingsError             an option, a name or a combination that makes no sense
    │   └── BudgetError           the budget is too small for the work asked
    ├── RunFolderError            a run folder or an output that cannot be used or written
    ├── DeviceError               the runtime or the device asked for is missing, or unfit
    ├── AdapterError              a framework, a checkpoint or a source is missing, or unfit
    │   └── ExportError           the framework cannot write the model as ONNX
    ├── VerificationError (3)     a result is not what it claims to be
    ├── TargetNotMetError (4)     no repair met the target; nothing was written
    └── Interruption (130)        stopped from outside
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class RepairkitError(Exception):
    """Base of all errors; the message says what was found, what was expected and what to do."""

    exit_code: ClassVar[int] = 1


class ModelError(RepairkitError):
    """The model cannot be read, or is not what the command needs."""


class DataError(RepairkitError):
    """Images, labels or groups are missing, broken or contradict the model."""


class PreprocessingError(DataError):
    """Images are probably not prepared as the model expects, or classes not in its order."""


class SettingsError(RepairkitError):
    """An option, a name or a combination of options makes no sense."""


class BudgetError(SettingsError):
    """The budget is too small for the work asked."""


class RunFolderError(RepairkitError):
    """A run folder or an output file cannot be used or written."""


class DeviceError(RepairkitError):
    """The runtime or the device asked for is missing, or cannot do what it is asked."""


class AdapterError(RepairkitError):
    """A framework, a checkpoint or a source is missing, or does not fit the others."""


class ExportError(AdapterError):
    """The framework cannot write the model as ONNX."""


class VerificationError(RepairkitError):
    """A result is not what it claims to be."""

    exit_code = 3


class TargetNotMetError(RepairkitError):
    """No repair met the target; nothing was written.

    `found` is the best that was found and how (a report's `selection`), where there is one.
    """

    exit_code = 4

    def __init__(self, message: str, found: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.found: Mapping[str, Any] = {} if found is None else found


class Interruption(RepairkitError):  # noqa: N818 - it is no error
    """The user stopped the command."""

    exit_code = 130


class Terminated(KeyboardInterrupt):
    """The system asked the process to end (SIGTERM)."""
