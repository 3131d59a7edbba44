"""Patch files: taken to their model and off again, and refused anywhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from repairkit.core.filters import Filter, FilterMeans, FrozenFilter, Patch, Roster
from repairkit.formats.documents import write_text
from repairkit.formats.patch_file import PatchFile, claim_digest, patch_file_text, read_patch_file
from repairkit.graph.baking import bake, representable
from repairkit.graph.kinds.sites import survey
from repairkit.graph.metadata import read_claims, write_claims
from repairkit.graph.stored.model_files import read_model, write_model
from repairkit.jobs.proof.undoing import revert_patch
from repairkit.jobs.proof.verifying import layout_of, sign_claim
from tests import models
from tests.conftest import Answer, Project
from tests.running import random_levels
from tests.zoo import LIGHT_MODELS, ZOO_MODELS

Command = Callable[..., Answer]


def make_patch_file(model: Path, players: list[int], out: Path, *, seed: int = 0) -> PatchFile:
    """Freeze filters of a model on disk, as `patch` would, without judging them on images."""
    source = read_model(model)
    found = survey(source.model)
    levels: FilterMeans = representable(found, random_levels(found.sites, seed))
    filters = [Roster(found.sites).filters[p] for p in players]
    frozen = tuple(FrozenFilter(f, float(levels[f.site][f.channel])) for f in filters)
    baked = bake(found, Patch(frozen))
    output = source.model.graph.output[0].name
    layout = layout_of(source)
    draft = PatchFile(
        patch=Patch(frozen),
        edits=baked.edits,
        source_digest=source.digest,
        result_digest="",
        sites_at="pre-activation",
        include=(),
        output=output,
        layout=layout,
    )
    write_claims(baked.model, [*read_claims(source.model), sign_claim(draft.claim())])
    digest = write_model(baked.model, out)
    file = PatchFile(**{**vars(draft), "result_digest": digest})
    write_text(out.with_suffix(".patch.json"), patch_file_text(file))
    return read_patch_file(out.with_suffix(".patch.json"))


def undo(patched: Path, file: PatchFile, out: Path) -> bytes:
    revert_patch(read_model(patched), file, out=out)
    return out.read_bytes()


_SLOW = {"light_vgg19", "light_bvlc_alexnet", "light_zfnet512", "light_densenet121"}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in _SLOW else [])
        for p in (*ZOO_MODELS, *LIGHT_MODELS)
    ],
)
def test_undoing_gives_back_the_very_file(path: Path, tmp_path: Path) -> None:
    n = len(Roster(survey(onnx.load(path)).sites))
    chosen = np.random.default_rng(1).choice(n, 3, replace=False).tolist()
    file = make_patch_file(path, chosen, tmp_path / "patched.onnx")
    assert (tmp_path / "patched.onnx").read_bytes() != path.read_bytes()
    assert undo(tmp_path / "patched.onnx", file, tmp_path / "back.onnx") == path.read_bytes()


@pytest.mark.parametrize("name", models.LAYERS)
@settings(deadline=None, max_examples=4)
@given(data=st.data())
def test_patches_stack_and_come_off_in_reverse_order(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("stack")
    onnx.save(models.LAYERS[name](), folder / "0.onnx")
    n = len(Roster(survey(onnx.load(folder / "0.onnx")).sites))
    pick = st.lists(st.integers(0, n - 1), unique=True, min_size=1, max_size=n)
    stack = data.draw(st.lists(pick, min_size=2, max_size=3))
    made = [
        make_patch_file(folder / f"{i}.onnx", chosen, folder / f"{i + 1}.onnx", seed=i)
        for i, chosen in enumerate(stack)
    ]
    current = folder / f"{len(made)}.onnx"
    for i in reversed(range(len(made))):
        assert (
            undo(current, made[i], folder / f"back{i}.onnx") == (folder / f"{i}.onnx").read_bytes()
        )
        current = folder / f"back{i}.onnx"


def as_external(model: ModelProto, folder: Path, names: list[str]) -> Path:
    """A model whose initializers lie in files beside it, in an order and at offsets of its own."""
    for place, tensor in enumerate(reversed(model.graph.initializer)):
        location = names[place % len(names)]
        (folder / location).parent.mkdir(exist_ok=True)
        with (folder / location).open("ab") as file:
            file.write(b"\xaa" * (place + 1))  # bytes that no tensor claims
            tensor.external_data.add(key="location", value=location)
            tensor.external_data.add(key="offset", value=str(file.tell()))
            tensor.external_data.add(key="length", value=str(len(tensor.raw_data)))
            file.write(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_undoing_gives_back_every_file_of_external_data(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    path = as_external(models.normalised(), tmp_path / "a", ["w.bin", "deep/more.bin"])
    kept = {p.relative_to(tmp_path / "a"): p.read_bytes() for p in path.parent.rglob("*.[bo]*")}
    assert len(kept) == 3
    file = make_patch_file(path, [1, 2], tmp_path / "patched.onnx")
    undo(tmp_path / "patched.onnx", file, tmp_path / "b" / "model.onnx")
    back = tmp_path / "b"
    found = {p.relative_to(back): p.read_bytes() for p in back.rglob("*") if p.is_file()}
    assert found == kept
    (back / "w.bin").write_bytes(b"precious")
    with pytest.raises(Exception, match=r"w\.bin: is in the way"):
        undo(tmp_path / "patched.onnx", file, back / "again.onnx")
    assert (back / "w.bin").read_bytes() == b"precious"


def test_undoing_gives_back_a_file_whose_fields_stand_in_another_order(tmp_path: Path) -> None:
    """A message may be cut in two, and its fields written in any order; readers put it together."""
    model = models.own_bias()
    first, second = ModelProto(), ModelProto()
    first.CopyFrom(model)
    del first.graph.initializer[:]
    second.graph.initializer.extend(model.graph.initializer)
    odd = second.SerializeToString() + first.SerializeToString() + b"\xa2\x7d\x04odd!"
    (tmp_path / "odd.onnx").write_bytes(odd)
    assert odd != onnx.load(tmp_path / "odd.onnx").SerializeToString(deterministic=True)
    file = make_patch_file(tmp_path / "odd.onnx", [0], tmp_path / "patched.onnx")
    assert undo(tmp_path / "patched.onnx", file, tmp_path / "back.onnx") == odd
    text = (tmp_path / "patched.patch.json").read_text()
    layout = json.loads(text)["source"]["layout"]
    assert sum(len(p) for p in layout[0]["pieces"] if isinstance(p, str)) < len(odd)


@pytest.fixture
def stacked(repairkit: Command, project: Project, tmp_path: Path) -> Path:
    """`one.onnx` with a filter frozen, `two.onnx` with another one on top."""
    data = ("--data", project.data, "--quiet", "--group", "group")
    for source, wanted, out in ((project.model, "conv:2", "one"), ("one.onnx", "conv:0", "two")):
        answer = repairkit("patch", source, *data, "--remove", wanted, "-o", f"{out}.onnx")
        assert answer.code == 0, answer.err
    return tmp_path


def refused(answer: Answer, *words: str) -> None:
    assert answer.code == 3, (answer.out, answer.err)
    assert answer.err.count("\n") == 1
    assert answer.out == ""
    for word in words:
        assert word in answer.err


def test_apply_and_revert_go_round(repairkit: Command, project: Project, stacked: Path) -> None:
    answer = repairkit("apply", project.model, "one.patch.json", "-o", "again.onnx", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["verified"] is True
    assert (stacked / "again.onnx").read_bytes() == (stacked / "one.onnx").read_bytes()
    assert repairkit("apply", "again.onnx", "two.patch.json", "-o", "top.onnx").code == 0
    assert (stacked / "top.onnx").read_bytes() == (stacked / "two.onnx").read_bytes()

    answer = repairkit("revert", "two.onnx", "-o", "back1.onnx")  # its patch file lies beside it
    assert answer.code == 0, answer.err
    assert "1 earlier patch is" in answer.out
    assert (stacked / "back1.onnx").read_bytes() == (stacked / "one.onnx").read_bytes()
    answer = repairkit("revert", "back1.onnx", "one.patch.json", "-o", "back0.onnx", "--json")
    assert json.loads(answer.out)["taken_off"] == ["conv:2"]
    assert (stacked / "back0.onnx").read_bytes() == project.model.read_bytes()


def test_an_original_that_is_there_already_is_left_and_nothing_else_is_replaced(
    repairkit: Command, project: Project, stacked: Path
) -> None:
    words = ("revert", "one.onnx", "-o")
    assert repairkit(*words, "back.onnx").code == 0
    before = (stacked / "back.onnx").stat()
    again = repairkit(*words, "back.onnx")
    assert again.code == 0, again.err
    assert "back.onnx: is there already and is the original, byte for byte" in again.out
    assert json.loads(repairkit(*words, "back.onnx", "--json").out)["was_there"] is True
    after = (stacked / "back.onnx").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    other = onnx.load(project.model)
    other.doc_string = "another model"
    onnx.save(other, stacked / "other.onnx")
    (stacked / "text.onnx").write_text("no model")
    for name in ("other.onnx", "text.onnx"):
        content = (stacked / name).read_bytes()
        answer = repairkit(*words, name)
        assert answer.code == 1
        assert answer.err.count("\n") == 1
        assert (stacked / name).read_bytes() == content
    # A wrong patch stays wrong, whatever lies at the place of the output.
    refused(repairkit("revert", "two.onnx", "one.patch.json", "-o", "back.onnx"), "rest on it")


def test_an_inner_patch_does_not_come_off_first(repairkit: Command, stacked: Path) -> None:
    outer = read_patch_file(stacked / "two.patch.json").digest[:12]
    answer = repairkit("revert", "two.onnx", "one.patch.json", "-o", "out.onnx")
    refused(answer, "rest on it", "take those off first", outer)
    assert not (stacked / "out.onnx").exists()


def test_a_patch_is_refused_where_it_does_not_belong(
    repairkit: Command, project: Project, stacked: Path
) -> None:
    out = ("-o", "out.onnx")
    refused(repairkit("apply", project.model, "two.patch.json", *out), "another model")
    refused(repairkit("apply", "one.onnx", "one.patch.json", *out), "in the model already")
    refused(repairkit("revert", project.model, "one.patch.json", *out), "not made by this patch")
    model = onnx.load(stacked / "one.onnx")
    model.doc_string = "changed since"
    onnx.save(model, stacked / "changed.onnx")
    answer = repairkit("revert", "changed.onnx", "one.patch.json", *out)
    refused(answer, "changed after it was patched")
    assert not (stacked / "out.onnx").exists()


def sealed_anew(path: Path, change: Callable[[dict], object]) -> None:
    """A stranger who alters a patch file can seal it again; what it promises is checked too."""
    document = json.loads(path.read_text())
    change(document)
    document.pop("seal", None)
    claim = {
        "source": document["source"]["digest"],
        "sites_at": document["sites"]["at"],
        "include": document["sites"]["include"],
        "output": document["sites"]["output"],
        "frozen": [[f["filter"], f["constant"]] for f in document["frozen"]],
    }
    document["digest"] = claim_digest(claim)
    path.write_text(json.dumps({**document, "seal": claim_digest(document)}))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d["frozen"][0].update(constant=0.25), "altered"),
        (lambda d: d["frozen"][0].update(channel=1, filter="conv:1"), "altered"),
        (lambda d: d["edits"][0].update(runs=[[0, 2**50]]), "altered"),
        (lambda d: d["edits"].pop(), "altered"),
        (lambda d: d["result"].update(digest="0" * 64), "promises"),
        (lambda d: d["sites"].update(output="nowhere"), "does not fit"),
        (lambda d: d["frozen"][0].update(channel=99, filter="conv:99"), "does not fit"),
    ],
)
def test_an_altered_patch_is_refused_even_with_a_fresh_seal(
    repairkit: Command,
    project: Project,
    stacked: Path,
    change: Callable[[dict], object],
    word: str,
) -> None:
    sealed_anew(stacked / "one.patch.json", change)
    refused(repairkit("apply", project.model, "one.patch.json", "-o", "out.onnx"), word)
    answer = repairkit("revert", "one.onnx", "one.patch.json", "-o", "out.onnx")
    assert answer.code == 3 or word == "does not fit", answer.err
    assert not (stacked / "out.onnx").exists()


def test_an_altered_layout_cannot_write_elsewhere(
    repairkit: Command, project: Project, stacked: Path
) -> None:
    def escape(document: dict) -> None:
        size = project.model.stat().st_size
        document["source"]["layout"] = [
            {"name": "", "pieces": [[0, size]]},
            {"name": "../escaped.bin", "pieces": ["AAAA"]},
        ]

    sealed_anew(stacked / "one.patch.json", escape)
    (stacked / "sub").mkdir()
    answer = repairkit("revert", "one.onnx", "one.patch.json", "-o", "sub/out.onnx")
    assert answer.code in (1, 3)
    assert not (stacked / "escaped.bin").exists()
    assert not list((stacked / "sub").iterdir())


def test_a_filter_that_is_frozen_already_is_left_as_it_is(
    repairkit: Command, project: Project, stacked: Path
) -> None:
    data = ("--data", project.data, "--calibration", "all", "--group", "group")
    answer = repairkit("patch", "one.onnx", *data, "--remove", "conv:2,conv:1", "-o", "x.onnx")
    assert answer.code == 0, answer.err
    assert "frozen: conv:1\n" in answer.out
    assert "conv:2 holds the constant" in " ".join(answer.out.split())
    answer = repairkit("patch", "one.onnx", *data, "--remove", "conv:2", "-o", "y.onnx")
    assert answer.code == 1
    assert "nothing to freeze" in answer.err
    assert not (stacked / "y.onnx").exists()


def test_patch_files_are_in_canonical_order_of_meaning_not_of_bytes(stacked: Path) -> None:
    path = stacked / "one.patch.json"
    document = json.loads(path.read_text())
    schema = json.loads((files("repairkit.formats") / "patch.schema.json").read_text())
    jsonschema.validate(document, schema)
    before = read_patch_file(path)
    shuffled = dict(sorted(document.items(), reverse=True))
    path.write_text(json.dumps(shuffled, separators=(",", ":")))
    assert read_patch_file(path) == before


def without_claims(path: Path, out: Path) -> None:
    model = onnx.load(path)
    write_claims(model, [])
    out.write_bytes(model.SerializeToString(deterministic=True))


@pytest.mark.usefixtures("stacked")
def test_a_stack_is_proven_from_the_first_original(repairkit: Command, project: Project) -> None:
    answer = repairkit("verify", project.model, "two.onnx", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert {f["filter"] for f in found["frozen"]} == {"conv:0", "conv:2"}
    assert found["inferred"] is False


def test_what_is_frozen_is_inferred_where_nothing_claims_it(
    repairkit: Command, project: Project, stacked: Path
) -> None:
    without_claims(stacked / "two.onnx", stacked / "bare.onnx")
    answer = repairkit("verify", project.model, "bare.onnx", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    claimed = {
        f["filter"]: f["constant"]
        for name in ("one", "two")
        for f in json.loads((stacked / f"{name}.patch.json").read_text())["frozen"]
    }
    assert {f["filter"]: f["constant"] for f in found["frozen"]} == claimed
    assert found["inferred"] is True
    assert "inferred" in repairkit("verify", project.model, "bare.onnx").out

    model = onnx.load(stacked / "bare.onnx")
    model.producer_version = "9"
    onnx.save(model, stacked / "odd.onnx")
    refused(repairkit("verify", project.model, "odd.onnx"), "differs", "2 filters")
    shutil.copy(project.model, stacked / "same.onnx")
    refused(repairkit("verify", project.model, "same.onnx"), "is the original")


@pytest.mark.parametrize("name", models.LAYERS)
@settings(deadline=None, max_examples=4)
@given(data=st.data())
def test_inference_reads_off_just_what_was_frozen(name: str, data: st.DataObject) -> None:
    from repairkit.graph.baking import infer_patch
    from repairkit.graph.stored.model_files import same_model

    model = models.LAYERS[name]()
    found = survey(model)
    n = len(Roster(found.sites))
    chosen = data.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n))
    levels = representable(found, random_levels(found.sites, data.draw(st.integers(0, 9))))
    filters = [Roster(found.sites).filters[p] for p in chosen]
    patch = Patch(tuple(FrozenFilter(f, float(levels[f.site][f.channel])) for f in filters))
    baked = bake(survey(model), patch).model
    inferred = infer_patch(survey(model, include=["dense"]), survey(baked, include=["dense"]))
    expected: dict[Filter, float] = {f.filter: f.constant for f in patch.frozen}
    assert {f.filter: f.constant for f in inferred.frozen} == expected
    assert same_model(bake(survey(model), inferred).model, baked)


def test_a_model_that_was_never_patched_is_told_so(
    repairkit: Command, project: Project, stacked: Path
) -> None:
    answer = repairkit("revert", project.model, "-o", "out.onnx")
    assert (answer.code, answer.err.count("\n")) == (1, 1)
    assert "was never patched" in answer.err
    assert "no patch file is in its folder" in answer.err
    lone = stacked / "plain.onnx"
    lone.write_bytes(project.model.read_bytes())
    answer = repairkit("revert", lone, "-o", "out.onnx")
    assert answer.code == 1
    assert "was never patched" in answer.err
    assert "one.onnx, two.onnx" in answer.err
    assert not (stacked / "out.onnx").exists()


def test_a_patched_model_without_its_patch_file_names_the_one_that_fits(
    repairkit: Command, stacked: Path
) -> None:
    (stacked / "one.onnx").rename(stacked / "moved.onnx")
    answer = repairkit("revert", stacked / "moved.onnx", "-o", "out.onnx")
    assert answer.code == 1
    assert "moved.patch.json is not beside it" in answer.err
    assert str(stacked / "one.patch.json") in answer.err
    (stacked / "one.patch.json").unlink()
    answer = repairkit("revert", stacked / "moved.onnx", "-o", "out.onnx")
    assert answer.code == 1
    assert "find it" in answer.err
