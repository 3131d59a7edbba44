"""Blame an unexpected error on the model if ONNX's checker rejects it; else raise it as it came."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import onnx
from onnx import ModelProto

from repairkit.core.errors import ModelError, RepairkitError
from repairkit.graph.index import with_open_sizes
from repairkit.jobs.setup.subject import Subject

_P = ParamSpec("_P")
_R = TypeVar("_R")


def judging_the_model(
    job: Callable[Concatenate[Subject, _P], _R],
) -> Callable[Concatenate[Subject, _P], _R]:
    """A job on a model that ends in a `ModelError` where ONNX's own checker refuses the model.

    A model that contradicts itself can fail anywhere, in any way. One that the checker passes must
    not: then the failure is repairkit's and is raised as it came.
    """

    @wraps(job)
    def judged(subject: Subject, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return job(subject, *args, **kwargs)
        except (RepairkitError, OSError, MemoryError):
            raise
        except Exception as error:
            fault = _fault(subject.model)
            if not fault:
                raise
            raise ModelError(
                f"{subject.file.path}: is not valid: {fault}; export the model anew"
            ) from error

    return judged


def _fault(model: ModelProto) -> str:
    """What ONNX's checker has against a model; empty where nothing."""
    try:
        onnx.checker.check_model(with_open_sizes(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    except ValueError:  # a model over 2 GB, which the checker does not take
        return ""
    return ""
