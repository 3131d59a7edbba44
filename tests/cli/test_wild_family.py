"""Whatever ONNX Runtime runs of a family of models, repairkit opens, patches and proves."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, event, given, note, settings
from onnx import ModelProto

import repairkit
from repairkit.engine.proof import equal_outputs
from repairkit.jobs.look.inspection import Inspection, inspect
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Settings
from tests.running import run
from tests.wild_family import Member, members

_CONVOLUTIONS = ("Conv", "ConvTranspose")


def check(member: Member) -> None:
    """Open, patch a filter of every site, prove, and undo; or each layer is left out by name."""
    note(member.recipe)
    plain = _runs(member)
    assume(plain is not None)
    with tempfile.TemporaryDirectory() as folder:
        _check_in(Path(folder), member, plain)


def _runs(member: Member) -> list[object] | None:
    try:
        return run(member.model, member.feeds)
    except Exception as error:  # noqa: BLE001 (whatever the runtime cannot run is no member)
        event(f"not run: {str(error)[:80]}")
        return None


def _check_in(folder: Path, member: Member, plain: list[object] | None) -> None:
    model, data, out = folder / "m.onnx", folder / "d.npz", folder / "o.onnx"
    onnx.save(member.model, model)
    np.savez(data, **member.arrays)
    job = Settings(data=data, inputs=member.inputs, workers=1)
    found = inspect(read_subject(model), job)
    _every_layer_is_told_of(member.model, found)
    if not found.sites:
        event("no site")
        return
    remove = [f"{s.site.name}:{s.site.n_channels - 1}" for s in found.sites]
    done = repairkit.patch(model, out=out, remove=remove, settings=job)
    assert done.verified.proof.exact
    assert len(done.patch) == len(remove) or any("already" in n for n in done.document["notes"])
    proven = repairkit.verify(model, out, settings=job)
    assert proven.proof.exact
    patched = onnx.load(out)
    assert [i.name for i in patched.graph.output] == [o.name for o in member.model.graph.output]
    if done.verified.proof.changed is False:
        assert equal_outputs(run(patched, member.feeds), plain)
    back = folder / "b.onnx"
    repairkit.revert(out, out=back)
    assert back.read_bytes() == model.read_bytes()
    event(f"{len(found.sites)} sites")


def _every_layer_is_told_of(model: ModelProto, found: Inspection) -> None:
    n_layers = sum(node.op_type in _CONVOLUTIONS for node in model.graph.node)
    told = [s for s in found.sites if s.site.kind != "dense"]
    left: Mapping[str, str] = {x.name: x.reason for x in found.left_out if x.kind in _CONVOLUTIONS}
    assert len(told) + len(left) == n_layers, (n_layers, [s.site.name for s in told], left)
    assert all(left.values())


@pytest.mark.long
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(members())
def test_members_of_the_family_are_opened_patched_and_proven(member: Member) -> None:
    check(member)


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(members())
def test_many_members_of_the_family(member: Member) -> None:
    check(member)
