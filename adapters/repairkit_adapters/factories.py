"""Load models named as `module:factory`, in any framework."""

import inspect
from contextlib import AbstractContextManager, nullcontext

from repairkit.core.errors import AdapterError, RepairkitError
from repairkit.core.process.text import first_line
from repairkit.core.process.trust import import_named, no_exit


def named_model(
    source: str, kind: type, kind_name: str, calling: AbstractContextManager[None] | None = None
) -> object:
    """The model that a source names, or that its function or class returns without arguments.

    Args:
        source: `module:factory`, where `factory` may be a path of attributes.
        kind: the framework's class of models.
        kind_name: name of that class in messages.
        calling: open while the factory is called.

    Raises:
        AdapterError: the module cannot be imported, or returns no such model.
    """
    factory = _named(source)
    model = factory
    if not isinstance(factory, kind) and callable(factory):
        try:
            inspect.signature(factory).bind()
        except (TypeError, ValueError) as error:
            raise AdapterError(
                f"{source}: cannot be called without arguments ({first_line(error)}); name a "
                "function that needs none and gives the model"
            ) from error
        try:
            with calling or nullcontext(), no_exit(source, AdapterError):
                model = factory()
        except RepairkitError:
            raise
        except Exception as error:  # the user's function may raise anything
            raise AdapterError(
                f"{source}: raised an error ({first_line(error)}); name a function that gives the "
                "model without arguments"
            ) from error
    if not isinstance(model, kind):
        raise AdapterError(
            f"{source}: gives a {type(model).__name__}, and a {kind_name} was expected; name a "
            "function or class that gives the model"
        )
    return model


def _named(source: str) -> object:
    module, _, path = source.partition(":")
    try:
        with no_exit(source, AdapterError):
            named: object = import_named(module)
    except RepairkitError:
        raise
    except Exception as error:  # the user's module may raise anything
        raise AdapterError(
            f"{source}: the module {module!r} cannot be imported ({first_line(error)}); run in "
            "the folder where it is, or install it"
        ) from error
    for part in path.split("."):
        if not hasattr(named, part):
            raise AdapterError(
                f"{source}: the module {module!r} has no {path!r}; check the name after the colon"
            )
        named = getattr(named, part)
    return named
