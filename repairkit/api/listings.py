"""Lists of what there is to choose from, as `repairkit list` shows them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Unpack, cast, get_args

from repairkit.api.job_settings import JobKeywords, check_keywords, job_settings, open_job
from repairkit.core.errors import SettingsError
from repairkit.core.process.text import did_you_mean
from repairkit.data.given import GivenAs
from repairkit.jobs.look import lists
from repairkit.jobs.look.lists import list_methods, list_metrics
from repairkit.jobs.setup.preparing import require_data
from repairkit.jobs.setup.workbench import Settings

__all__ = ["Listing", "What", "list_methods", "list_metrics", "listing"]

What = Literal["metrics", "methods", "columns", "sites"]
Entry = lists.ListedMetric | lists.ListedMethod | lists.ListedColumn | lists.ListedSite


@dataclass(frozen=True)
class Listing:
    """Entries of one kind; a table with a line each."""

    what: What
    entries: tuple[Entry, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            self.what: [
                each.to_json() if isinstance(each, lists.ListedColumn) else asdict(each)
                for each in self.entries
            ]
        }


def listing(
    what: str,
    model: str | Path | None = None,
    data: GivenAs | None = None,
    *,
    settings: Settings | None = None,
    **words: Unpack[JobKeywords],
) -> Listing:
    """List what there is to choose from, as `repairkit list` does.

    Args:
        what: `metrics`, `methods`, `columns` of data or `sites` of a model.
        model: an ONNX file; for `sites`.
        data: images or a table; for `columns`. Those of the settings if None.
        settings: the label's column, the judged output and the kinds of sites; read from
            `repairkit.toml` if None.
        words: see `JobKeywords`.

    Raises:
        SettingsError: there is no such list, or it needs a model or data and none was given.
        RepairkitError: the model or the data cannot be read.
    """
    check_keywords("listing", words, JobKeywords)
    if what not in get_args(What):
        known = get_args(What)
        raise SettingsError(
            f"there is no list of {what!r}; choose {', '.join(known)}{did_you_mean(what, known)}"
        )
    kind = cast(What, what)
    if kind == "metrics":
        return Listing(kind, list_metrics())
    if kind == "methods":
        return Listing(kind, list_methods())
    if kind == "sites":
        if model is None:
            raise SettingsError("sites are those of a model, and none was given; name an ONNX file")
        subject, job = open_job(model, data, settings, words)
        return Listing(kind, lists.list_sites(subject, job))
    job = job_settings(Path("repairkit.toml"), data, settings, words)
    path = require_data(job)
    return Listing(kind, lists.list_columns(path, label=job.label))
