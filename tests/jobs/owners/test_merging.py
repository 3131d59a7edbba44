"""Values of several owners of data add up to those of all the data."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.core.filters import Sums
from repairkit.formats.means_file import CommonMeans, read_means
from repairkit.jobs.owners.measuring import merge_means, write_means
from tests.conftest import Answer, Project

Command = Callable[..., Answer]
ALL = ("--selection", "all", "--calibration", "all", "--quiet")


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "scores.csv").open(newline="") as file:
        return {row["filter"]: row for row in csv.DictReader(file)}


def split(project: Project, first: int) -> tuple[Path, Path]:
    """The images before and from number `first` on, as two owners' data."""
    stored = dict(np.load(project.data))
    paths = project.folder / "one.npz", project.folder / "two.npz"
    for path, part in zip(paths, (slice(first), slice(first, None)), strict=True):
        np.savez(path, **{name: column[part] for name, column in stored.items()})
    return paths


def score(repairkit: Command, model: Path, data: Path, out: str, *more: str) -> None:
    arguments = (model, "--data", data, "-o", out, "--means", "means.json", *ALL, *more)
    answer = repairkit("score", *arguments)
    assert answer.code == 0, answer.err


def test_exact_values_of_two_owners_are_those_of_all_images(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    owners = split(project, 50)
    assert repairkit("means", project.model, "-o", "means.json", "--quiet").code == 0
    metrics = ("--method", "exact", "--metric", "accuracy", "--metric", "loss",
               "--metric", "recall:1")  # fmt: skip
    score(repairkit, project.model, project.data, "whole", *metrics)
    for data in owners:
        score(repairkit, project.model, data, data.stem, *metrics, "--share", f"{data.stem}-out")
    answer = repairkit("merge", "one-out", "two-out", "-o", "merged", "--json")
    assert answer.code == 0, answer.err
    whole, merged = rows_of(tmp_path / "whole"), rows_of(tmp_path / "merged")
    assert whole.keys() == merged.keys()
    for name, row in whole.items():
        for column in ("value", "value:loss", "value:recall:1"):
            assert float(merged[name][column]) == pytest.approx(float(row[column]), abs=1e-12)
        assert merged[name]["decided"] == "true"
        # Errors over images: each owner's spread is around its own mean, so they agree about.
        arm = float(row["ci_high"]) - float(row["value"])
        for column in ("ci_low", "ci_high"):
            assert float(merged[name][column]) == pytest.approx(float(row[column]), abs=0.1 * arm)
        assert float(merged[name]["std_error"]) == pytest.approx(float(row["std_error"]), rel=0.1)
    document = json.loads((tmp_path / "merged" / "run.json").read_text())
    jsonschema.validate(
        document, json.loads((files("repairkit.formats") / "run.schema.json").read_text())
    )
    ends = json.loads((tmp_path / "whole" / "run.json").read_text())["metrics"]
    for name, end in ends.items():
        assert document["metrics"][name]["all"] == pytest.approx(end["all"], abs=1e-12)
        assert document["metrics"][name]["none"] == pytest.approx(end["none"], abs=1e-12)
    assert [part["weights"]["accuracy"] for part in document["merged"]] == [50 / 120, 70 / 120]
    backwards = repairkit("merge", "two-out", "one-out", "-o", "back", "--quiet")
    assert backwards.code == 0
    for name, row in rows_of(tmp_path / "back").items():
        assert float(row["value"]) == pytest.approx(float(merged[name]["value"]), abs=1e-15)


def test_estimates_of_two_owners_agree_with_all_images_within_their_intervals(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    assert repairkit("means", project.model, "-o", "means.json", "--quiet").code == 0
    score(repairkit, project.model, project.data, "truth", "--method", "exact", "--metric", "loss")
    how = ("--method", "permutation", "--max-evaluations", "600", "--metric", "loss")
    for data in split(project, 40):
        score(repairkit, project.model, data, data.stem, *how)
    assert repairkit("merge", "one", "two", "-o", "merged", "--quiet").code == 0
    truth, merged = rows_of(tmp_path / "truth"), rows_of(tmp_path / "merged")
    for name, row in merged.items():
        error = float(row["std_error"])
        assert 0 < error < 0.2
        assert float(row["value"]) == pytest.approx(float(truth[name]["value"]), abs=4 * error)
        assert float(row["ci_low"]) < float(row["value"]) < float(row["ci_high"])
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    for name, row in merged.items():
        errors = [w * float(p[name]["std_error"]) for w, p in ((1 / 3, one), (2 / 3, two))]
        assert float(row["std_error"]) == pytest.approx(np.hypot(*errors))


def test_what_does_not_add_up_is_refused_in_one_line(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    one, two = split(project, 60)
    assert repairkit("means", project.model, "--data", one, "-o", "means.json", "--quiet").code == 0
    how = ("--method", "exact", "--metric")
    score(repairkit, project.model, one, "one", *how, "accuracy")
    score(repairkit, project.model, two, "two", *how, "accuracy")
    score(repairkit, project.model, two, "loss", *how, "loss")
    score(repairkit, project.model, two, "other-kind", "--method", "leave-one-out")
    score(repairkit, project.model, one, "worst", *how, "worst_group_accuracy")
    score(repairkit, project.model, two, "worst2", *how, "worst_group_accuracy")
    for data in (one, two):
        own = ("--data", data, "-o", f"own-{data.stem}", *ALL, "--method", "exact")
        assert repairkit("score", project.model, *own).code == 0
    (tmp_path / "means2.json").write_bytes((tmp_path / "means.json").read_bytes())
    assert repairkit("means", project.model, "--data", two, "-o", "means.json", "--quiet").code == 0
    score(repairkit, project.model, two, "elsewhere", *how, "accuracy")

    def refused(*runs: str, word: str, more: tuple[str, ...] = ()) -> None:
        answer = repairkit("merge", *runs, "-o", "merged", *more)
        assert answer.code == 1
        assert answer.err.count("\n") == 1
        assert word in answer.err
        assert not (tmp_path / "merged").exists()

    refused("one", word="two or more")
    refused("one", "one", word="same data")
    refused("one", "own-one", word="repairkit means")
    refused("own-one", "own-two", word="repairkit means")
    refused("one", "loss", word="metrics are accuracy and loss")
    refused("one", "other-kind", word="different kinds")
    refused("one", "elsewhere", word="different means")
    refused("worst", "worst2", word="worst_group_accuracy is no mean")
    refused("worst", "worst2", word="in several runs", more=("--by", "groups"))
    refused("one", "two", word="greater than zero", more=("--weights", "1,-2"))
    refused("one", "nowhere", word="cannot be read")
    document = json.loads((tmp_path / "two" / "run.json").read_text())
    (tmp_path / "two" / "run.json").write_text(json.dumps(document | {"finished": False}))
    refused("one", "two", word="unfinished")
    other = document | {"model": document["model"] | {"digest": "0" * 64}}
    (tmp_path / "two" / "run.json").write_text(json.dumps(other))
    refused("one", "two", word="different models")
    (tmp_path / "two" / "run.json").write_text(json.dumps(document))
    answer = repairkit("merge", "one", "two", "-o", "one")
    assert "is one of the runs" in answer.err
    assert repairkit("merge", "one", "two", "-o", "merged", "--weights", "1,3", "--quiet").code == 0
    assert repairkit("merge", "one", "two", "-o", "merged", "--quiet").code == 0
    score_again = repairkit(
        "score", project.model, "-o", "x", "--means", "means.json", "--sites-at", "activation"
    )
    assert "means at the pre-activation" in score_again.err


def test_owners_of_whole_groups_are_weighted_by_groups(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    stored = dict(np.load(project.data))
    assert repairkit("means", project.model, "-o", "means.json", "--quiet").code == 0
    how = ("--method", "exact", "--metric", "group_accuracy")
    score(repairkit, project.model, project.data, "whole", *how)
    for name in "ab":
        part = stored["group"] == name
        path = project.folder / f"{name}.npz"
        np.savez(path, **{column: values[part] for column, values in stored.items()})
        score(repairkit, project.model, path, name, *how)
    assert repairkit("merge", "a", "b", "--by", "groups", "-o", "merged", "--quiet").code == 0
    whole, merged = rows_of(tmp_path / "whole"), rows_of(tmp_path / "merged")
    for name, row in whole.items():
        assert float(merged[name]["value"]) == pytest.approx(float(row["value"]), abs=1e-12)


def test_a_shared_folder_names_no_place_and_no_image(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    answer = repairkit(
        "score", project.model, "-o", "run", "--share", "out", "--max-evaluations", "2000",
        "--quiet",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    shared = tmp_path / "out"
    assert sorted(p.name for p in shared.iterdir()) == ["run.json", "scores.csv"]
    text = (shared / "run.json").read_text()
    for word in (str(tmp_path), str(project.folder), "data.npz", "model.onnx", ".npz"):
        assert word not in text
    document = json.loads(text)
    jsonschema.validate(
        document, json.loads((files("repairkit.formats") / "run.schema.json").read_text())
    )
    assert (shared / "scores.csv").read_bytes() == (tmp_path / "run" / "scores.csv").read_bytes()
    few = dict(np.load(project.data))
    np.savez(project.data, **{name: column[:15] for name, column in few.items()})
    answer = repairkit("score", project.model, "--method", "exact", "-o", "few", "--share", "out2")
    assert answer.code == 1
    assert "tell of single ones" in answer.err
    assert not (tmp_path / "out2").exists()


@settings(max_examples=30, deadline=None)
@given(
    sums=st.lists(
        st.tuples(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.integers(1, 10**6)),
        min_size=2,
        max_size=5,
    ),
    order=st.randoms(use_true_random=False),
)
def test_means_of_owners_are_the_same_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    sums: list[tuple[list[float], int]],
    order: object,
) -> None:
    folder = tmp_path_factory.mktemp("means")
    paths = []
    for number, (totals, count) in enumerate(sums):
        own = CommonMeans(
            model="m",
            sites_at="activation",
            data=(str(number),),
            n_images=1,
            sums={"conv": Sums(np.array(totals), count)},
        )
        write_means(folder / f"{number}.json", own)
        paths.append(folder / f"{number}.json")
    merged = merge_means(paths)
    order.shuffle(paths)  # type: ignore[attr-defined]
    again = merge_means(paths)
    assert merged.digest == again.digest
    exact = np.sum([np.array(t, np.longdouble) for t, _ in sums], axis=0)
    exact /= sum(count for _, count in sums)
    found = merged.sums["conv"].total / merged.sums["conv"].count
    assert found == pytest.approx(exact.astype(float), rel=1e-12, abs=1e-9)
    write_means(folder / "merged.json", merged)
    assert read_means(folder / "merged.json").digest == merged.digest


def test_merged_means_are_those_of_all_images(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    for data in split(project, 45):
        arguments = ("--data", data, "-o", f"{data.stem}.json", "--quiet")
        assert repairkit("means", project.model, *arguments).code == 0
    assert repairkit("means", project.model, "-o", "whole.json", "--quiet").code == 0
    answer = repairkit("means", "--merge", "one.json", "--merge", "two.json", "-o", "both.json")
    assert answer.code == 0, answer.err
    whole, both = read_means(tmp_path / "whole.json"), read_means(tmp_path / "both.json")
    assert both.n_images == whole.n_images == 120
    for name, sums in whole.sums.items():
        assert both.sums[name].count == sums.count
        assert both.sums[name].total == pytest.approx(sums.total, rel=1e-6, abs=1e-4)
    again = repairkit("means", "--merge", "one.json", "--merge", "one.json", "-o", "x.json")
    assert "same images" in again.err
    text = (tmp_path / "both.json").read_text()
    (tmp_path / "altered.json").write_text(text.replace('"count": ', '"count": 1'))
    with pytest.raises(Exception, match="digest does not match"):
        read_means(tmp_path / "altered.json")
