"""`--fix` and `--forget` on networks whose filters do one thing each, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

import repairkit
from repairkit.core.errors import DataError, SettingsError, TargetNotMetError
from repairkit.jobs.repair.aims.outcome import fit_probe
from repairkit.jobs.repair.repair_settings import PatchSettings, wanted_repair
from tests.jobs.repair.aims.conftest import SPOILT, N


def answers(model: Path, images: NDArray[Any]) -> NDArray[np.int64]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": images})[0]).argmax(axis=1)


def test_the_filter_that_spoils_one_kind_of_image_is_found(spoilt: tuple[Path, Path]) -> None:
    model, data = spoilt
    out = model.with_name("fixed.onnx")
    done = repairkit.patch(model, data, out=out, fix="wrong", seed=1)
    assert [filter.id for filter in done.patch.filters] == [SPOILT]
    assert done.objective == "accuracy_to_fix"
    fixed = done.document["fixed"]
    there, others = fixed["to_fix"], fixed["elsewhere"]
    assert there["mended"] == there["wrong"] > 0
    assert there["n"] + others["n"] == done.document["read"]["parts"]["test"]
    # By ONNX Runtime alone, on all images.
    with np.load(data) as stored:
        x, y, wrong = stored["x"], stored["y"], stored["wrong"].astype(bool)
    before, after = (answers(path, x) == y for path in (model, out))
    assert not before[wrong].any()
    assert after[wrong].mean() > 0.95
    assert after[~wrong].mean() >= before[~wrong].mean() - 0.005
    back = model.with_name("back.onnx")
    repairkit.revert(out, out=back)
    assert back.read_bytes() == model.read_bytes()


def test_it_declines_where_no_filter_spoils_them(spoilt: tuple[Path, Path]) -> None:
    model, data = spoilt
    with np.load(data) as stored:
        columns = dict(stored)
    flipped = np.random.default_rng(5).random(N) < 0.1
    columns["y"] = np.where(flipped, 1 - columns["y"], columns["y"])
    np.savez(data, **columns | {"flipped": flipped.astype(int)})
    out = model.with_name("no.onnx")
    with pytest.raises(TargetNotMetError, match=r"--repair best lets .*; nothing was written"):
        repairkit.patch(model, data, out=out, fix="flipped")
    assert not out.exists()


def test_few_images_to_fix_are_declined_in_one_line(spoilt: tuple[Path, Path]) -> None:
    model, data = spoilt
    few = data.with_name("few.csv")
    wrong = data.with_name("list.csv").read_text().split()
    few.write_text("\n".join(wrong[:4]))
    with pytest.raises(
        TargetNotMetError, match=r"gets \d wrong, .* from 5 on; mark more"
    ) as caught:
        repairkit.patch(model, data, out=model.with_name("no.onnx"), fix=few)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fix", "message"),
    [
        ("wron", r"no column 'wron': the data has corner, wrong; did you mean 'wrong'\?"),
        ("corner", r"holds bright, dark, .*--fix corner=bright"),
        ("corner=brigth", "no image has that value; corner holds bright, dark"),
        ("paths.csv", "listed by their paths and the images of the data have none"),
        ("beyond.csv", r"beyond.csv, row 2: '900' is none of the 900 images .*0 to 899"),
        ("other.csv", r"has no column path \(or image\); found name"),
        ("every.csv", "marks all of the 900 images"),
    ],
)
def test_images_to_fix_that_cannot_be_told_are_refused_in_one_line(
    spoilt: tuple[Path, Path], fix: str, message: str
) -> None:
    model, data = spoilt
    lists = {
        "paths": "path\na.png\n",
        "beyond": "image\n900\n",
        "other": "name\na\n",
        "every": "image\n" + "\n".join(map(str, range(N))),
    }
    for name, text in lists.items():
        data.with_name(f"{name}.csv").write_text(text)
    given = data.with_name(fix) if fix.endswith(".csv") else fix
    with pytest.raises((DataError, SettingsError), match=message) as caught:
        repairkit.patch(model, data, out=model.with_name("no.onnx"), fix=given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fix": "a", "fairness": True}, "--fairness and --fix are two repairs"),
        ({"fix": "a", "forget": "b"}, "--fix and --forget are two repairs"),
        ({"fix": "a", "mend": 1.2}, r"--mend is 1.2; expected a share"),
        ({"fairness": True, "mend": 0.5}, "name them with --fix"),
        ({"fix": "a", "choose": "plain"}, "--fix chooses jointly"),
        ({"forget": "a", "scores": Path("run")}, "leave out --scores"),
        ({"fix": "a", "objective": "loss"}, "--fix is for accuracy_to_fix; leave out --objective"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        PatchSettings(**given)


def test_usual_limits_follow_what_is_asked() -> None:
    assert PatchSettings(fairness=True).most_drop == 0.01
    assert PatchSettings(fix="a").most_drop == 0.005
    assert PatchSettings(fix="a", max_drop=0.02).most_drop == 0.02
    assert PatchSettings(forget="a").most_frozen > PatchSettings(fix="a").most_frozen == 8


@pytest.mark.parametrize("test", [0.3, pytest.param("none", marks=pytest.mark.long)])
def test_a_class_is_forgotten_and_a_probe_still_tells_it(
    telling: tuple[Path, Path], test: float | str
) -> None:
    model, data = telling
    out = model.with_name("forgot.onnx")
    wanted: dict[str, Any] = {"forget": "2", "repair": "freeze", "at_most": 1}
    done = repairkit.patch(model, data, out=out, test=test, groups=("town",), **wanted)
    assert "conv:2" in [filter.id for filter in done.patch.filters]
    with np.load(data) as stored:
        x, y = stored["x"], stored["y"]
    after = answers(out, x)
    assert (after[y == 2] == 2).mean() < 1 / 3
    assert (after == y)[y != 2].mean() > 0.98
    story = done.document["forgotten"]
    assert story["chance"] == pytest.approx(1 / 3)
    # No group pays: the class that was given up does not count for them.
    assert done.document["payers"] == []
    # Where the two other filters are silent it is the third: the features still say so.
    assert story["probe"]["after"]["ci_low"] > 0.9
    assert "was not unlearned" in " ".join(
        (out.with_name("forgot.report.html")).read_text().split()
    )


def test_the_best_of_all_repairs_is_made_of_a_class_to_forget(telling: tuple[Path, Path]) -> None:
    """Whichever it is: freezing is one of them, and is made where it alone is asked for."""
    model, data = telling
    done = repairkit.patch(model, data, out=model.with_name("forgot.onnx"), forget="2")
    compared = {each["cure"] for each in done.document["selection"]["cures"]}
    assert {"freeze", "bias", "last-layer"} <= compared
    assert done.after.metrics["recall_left:2"].value <= 1 / 3
    assert wanted_repair(PatchSettings(forget="2", level="zero")) == "freeze"


def test_moved_biases_give_up_a_class_however_sure_the_model_is(
    telling: tuple[Path, Path],
) -> None:
    model, data = telling
    with np.load(data) as stored:
        columns = dict(stored)
    np.savez(data, **columns | {"x": 8 * columns["x"]})
    out = model.with_name("forgot.onnx")
    done = repairkit.patch(model, data, out=out, forget="2", repair="bias")
    assert done.after.metrics["recall_left:2"].value == 0
    after, y = answers(out, 8 * columns["x"]), columns["y"]
    assert (after == y)[y != 2].mean() > 0.99
    # Biases leave the features as they were.
    assert done.document["forgotten"]["probe"]["before"] == pytest.approx(
        done.document["forgotten"]["probe"]["after"]
    )
    assert done.document["forgotten"]["probe"]["after"]["ci_low"] > 0.9


def test_a_class_that_is_not_known_or_not_found_is_told(telling: tuple[Path, Path]) -> None:
    model, data = telling
    with pytest.raises(SettingsError, match="there is no class 'cat'"):
        repairkit.patch(model, data, out=model.with_name("no.onnx"), forget="cat")
    with np.load(data) as stored:
        columns = dict(stored)
    np.savez(data, **columns | {"y": (columns["y"] + 1) % 3})
    with pytest.raises(TargetNotMetError, match=r"finds 0 of the \d+ selection images of class"):
        repairkit.patch(
            model, data, out=model.with_name("no.onnx"), forget="2", accept_preprocessing=True
        )


def test_a_probe_answers_like_scikit_learns() -> None:
    rng = np.random.default_rng(3)
    of_class = rng.random(600) < 0.2
    features = rng.normal(size=(600, 6)) + 1.2 * of_class[:, None] * np.eye(6)[0]
    fresh_truth = rng.random(2000) < 0.2
    fresh = rng.normal(size=(2000, 6)) + 1.2 * fresh_truth[:, None] * np.eye(6)[0]
    said = fit_probe(features, of_class, 0, fresh)
    reference = LogisticRegression(class_weight="balanced").fit(features, of_class).predict(fresh)
    assert (said == reference).mean() > 0.95


def test_a_probe_finds_nothing_where_nothing_is() -> None:
    rng = np.random.default_rng(4)
    of_class, fresh_truth = rng.random(400) < 0.3, rng.random(4000) < 0.3
    said = fit_probe(rng.normal(size=(400, 8)), of_class, 0, rng.normal(size=(4000, 8)))
    recalls = [(said == fresh_truth)[fresh_truth == kind].mean() for kind in (True, False)]
    assert np.mean(recalls) == pytest.approx(0.5, abs=0.04)
