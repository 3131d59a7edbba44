"""Every estimator by name, and from a name and settings to an estimator.

A new estimator is one file and one line of `ESTIMATORS`.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from repairkit.core import errors, scores
from repairkit.core.process.text import first_line
from repairkit.core.process.trust import GivenName, import_named, needed_again, no_exit
from repairkit.estimators.auto import Auto
from repairkit.estimators.exact import Exact
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.linear.repair_values import RepairRegression
from repairkit.estimators.questions import unknown
from repairkit.estimators.reference_scores import LeaveOneOut, RandomScores
from repairkit.estimators.walking.marginals import Marginals
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.stars import Stars
from repairkit.estimators.walking.tmab import Tmab

ESTIMATORS: Mapping[str, type] = MappingProxyType(
    {
        "auto": Auto,
        "exact": Exact,
        "permutation": Permutation,
        "tmab": Tmab,
        "regression": Regression,
        "repair": RepairRegression,
        "marginals": Marginals,
        "stars": Stars,
        "leave-one-out": LeaveOneOut,
        "random": RandomScores,
    }
)
"""Every estimator by name; `module:object` is one of the user's own."""


def make_estimator(name: str, **settings: Any) -> scores.Estimator:
    """The estimator called `name`, with these settings.

    Raises:
        SettingsError: the name or a setting is unknown, or a value makes no sense.
    """
    if ":" in name:
        return _load(name, settings)
    if name not in ESTIMATORS:
        raise unknown("estimator", name, ESTIMATORS, " or module:object")
    kind = ESTIMATORS[name]
    known = [f.name for f in dataclasses.fields(kind)]
    for setting in settings:
        if not known:
            raise errors.SettingsError(
                f"{name} takes no settings and {setting!r} was given; leave it out"
            )
        if setting not in known:
            raise unknown(f"setting of {name}", setting, known)
    estimator: scores.Estimator = kind(**settings)
    return estimator


def _load(name: str, settings: Mapping[str, Any]) -> scores.Estimator:
    """What `module:object` names: an object with `start`, or what gives one when called."""
    module_name, _, path = name.partition(":")
    target = name.target if isinstance(name, GivenName) else _import(name, module_name, path)
    if not hasattr(target, "start") or isinstance(target, type):
        target = _call(name, target, settings)
    elif settings:
        raise errors.SettingsError(
            f"{name} is ready made and takes no settings; leave out {', '.join(settings)}"
        )
    if not callable(getattr(target, "start", None)):
        raise errors.SettingsError(
            f"{name} is a {type(target).__name__} without `start(facts, rng)`; name an estimator, "
            "or a class or function that gives one"
        )
    estimator: scores.Estimator = target
    return estimator


def _import(name: str, module_name: str, path: str) -> Any:
    if not module_name or not path or module_name.startswith("."):
        raise errors.SettingsError(f"estimator {name!r} is incomplete; write module:object")
    try:
        with no_exit(f"estimator {name}", errors.SettingsError):
            target: Any = import_named(module_name)
    except errors.RepairkitError:
        raise
    except Exception as error:
        if needed_again(name):
            raise errors.SettingsError(needed_again(name)) from error
        raise errors.SettingsError(
            f"module {module_name!r} of estimator {name} cannot be imported "
            f"({type(error).__name__}: {first_line(error)}); run where it lies, or install it"
        ) from error
    for part in path.split("."):
        if not hasattr(target, part):
            raise errors.SettingsError(
                f"module {module_name!r} has no {path!r}; check the name after the colon"
            )
        target = getattr(target, part)
    return target


def _call(name: str, factory: Any, settings: Mapping[str, Any]) -> Any:
    if not callable(factory):
        return factory
    try:
        inspect.signature(factory).bind(**settings)
        with no_exit(f"estimator {name}", errors.SettingsError):
            return factory(**settings)
    except errors.RepairkitError:
        raise
    except Exception as error:
        given = f"with {', '.join(settings)}" if settings else "without arguments"
        raise errors.SettingsError(
            f"{name} cannot be called {given} ({type(error).__name__}: {first_line(error)})"
        ) from error
