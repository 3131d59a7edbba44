"""Adapters: found by entry points, chosen by name or by the source that they take."""

import logging
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from repairkit.core.errors import AdapterError, SettingsError
from repairkit.core.framework import Adapter, FrameworkModel, LoadOptions
from repairkit.core.process.stages import stage

GROUP = "repairkit.adapters"
_NEEDED = ("name", "extra", "takes", "load")

logger = logging.getLogger(__name__)


@stage("loading the model")
def load_framework_model(
    source: str,
    options: LoadOptions | None = None,
    *,
    framework: str | None = None,
    adapters: Sequence[Adapter] | None = None,
) -> FrameworkModel:
    """A trained model from a framework.

    Args:
        source: such as `module:factory` or the path of a saved model.
        options: how the source becomes a model.
        framework: an adapter's name; the adapter that takes the source if None.
        adapters: to choose from; all that are installed if None.

    Raises:
        SettingsError: there is no adapter of that name.
        AdapterError: none takes the source, or the one that does cannot load it.
    """
    return choose_adapter(source, framework, adapters).load(source, options or LoadOptions())


def choose_adapter(
    source: str, framework: str | None = None, adapters: Sequence[Adapter] | None = None
) -> Adapter:
    """The adapter of that name, or the only one that takes the source; see above."""
    known = find_adapters() if adapters is None else tuple(adapters)
    names = ", ".join(a.name for a in known) or "none"
    if framework is not None:
        named = [a for a in known if a.name == framework]
        if not named:
            raise SettingsError(f"there is no framework {framework!r}; known are {names}")
        return named[0]
    takers = [a for a in known if a.takes(source)]
    if len(takers) == 1:
        return takers[0]
    if takers:
        several = " and ".join(a.name for a in takers)
        raise SettingsError(f"{source}: both {several} may take it; say which with --framework")
    missing = "" if ":" in source or Path(source).exists() else ", and there is no such file"
    raise AdapterError(
        f"{source}: no adapter takes it{missing}; give module:factory or a saved model, or say "
        f"with --framework whose it is (known are {names})"
    )


def find_adapters(points: Iterable[EntryPoint] | None = None) -> tuple[Adapter, ...]:
    """Every installed adapter, in the order of names; no framework is imported.

    One that cannot be imported is left out with a warning: the others go on.
    """
    adapters_by_name: dict[str, Adapter] = {}
    given = entry_points(group=GROUP) if points is None else points
    for point in sorted(set(given), key=lambda p: (p.name, p.value)):
        try:
            adapter = point.load()
        except Exception as error:  # noqa: BLE001 - whatever a third party's module raises
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("the adapter %s (%s) is left out: %s", point.name, point.value, reason)
            continue
        lacking = [name for name in _NEEDED if not hasattr(adapter, name)]
        if lacking:
            logger.warning(
                "the adapter %s (%s) is left out: it has no %s",
                point.name,
                point.value,
                ", ".join(lacking),
            )
        elif adapter.name in adapters_by_name and adapters_by_name[adapter.name] is not adapter:
            logger.warning(
                "the adapter %s (%s) is left out: another has that name", point.name, point.value
            )
        else:
            adapters_by_name[adapter.name] = adapter
    return tuple(adapters_by_name.values())
