"""A bill of materials fits the schema of CycloneDX and says what the report says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repairkit.report.records.bill import MARK, MARK_WITHIN, bill_text, hashes_in
from tests.report.documents import HOSTILE, figure, repair
from tests.report.test_page import ODD, fairness

MADE = {"model.patched.onnx": "c" * 64}
SOURCE = {"model.onnx": "b" * 64}


def bill(document: dict[str, Any], **files: Any) -> dict[str, Any]:
    text = bill_text(
        document,
        patch_file=files.get("patch_file", "model.patched.patch.json"),
        made=files.get("made", MADE),
        source=files.get("source", SOURCE),
    )
    assert MARK in text.encode()[:MARK_WITHIN]
    check_schema(text)
    read: dict[str, Any] = json.loads(text)
    return read


def check_schema(text: str) -> None:
    """By the library of CycloneDX, with all formats."""
    pytest.importorskip("cyclonedx.validation.json")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def figures_of(component: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    rows = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    return {(row["type"], row["slice"].split(",")[0]): row for row in rows}


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10)


@settings(max_examples=10, deadline=None)
@given(
    groups=st.lists(names, max_size=4, unique=True),
    gain=st.floats(-0.5, 0.5),
    frozen=st.lists(names.map(lambda name: f"{name}:1"), max_size=3, unique=True),
    objective=st.sampled_from(["worst_group_accuracy", "mean_absolute_error", "accuracy"]),
)
def test_any_repair_has_a_bill_that_fits_the_schema(
    groups: list[str], gain: float, frozen: list[str], objective: str
) -> None:
    document = repair(groups, gain=gain, frozen=frozen, objective=objective)
    model = bill(document)["metadata"]["component"]
    assessed = model["modelCard"]["considerations"].get("fairnessAssessments", [])
    assert [entry["groupAtRisk"].rpartition(", ")[0] for entry in assessed] == [
        name.replace("\xa0", " ").replace("\N{MINUS SIGN}", "-") for name in groups
    ]
    for entry in assessed:
        assert entry["benefits"].startswith("surely") == (gain > 0)
        assert entry["harms"].startswith("surely") == (gain < 0)


def test_every_figure_of_the_report_stands_in_the_bill_with_its_interval() -> None:
    document = repair(["a", "b"], gain=0.25)
    model = bill(document)["metadata"]["component"]
    (before,) = model["pedigree"]["ancestors"]
    evaluations = document["evaluations"]
    part = f"{evaluations['before']['n_images']} images of the test part"
    for component, when, prefix in (
        (before, "before", ""),
        (model, "after", ""),
        (model, "difference", "change of "),
    ):
        rows, told = figures_of(component), evaluations[when]
        wanted = {(f"{prefix}{n}", part): f for n, f in told.get("metrics", told).items()}
        wanted = {key: f for key, f in wanted.items() if "accuracy:" not in key[0]}
        groups = told.get("groups") or {n: told[f"accuracy:{n}"] for n in ("a", "b")}
        wanted |= {(f"{prefix}accuracy", name): f for name, f in groups.items()}
        assert wanted.keys() <= rows.keys()
        for key, value in wanted.items():
            ends = rows[key]["confidenceInterval"]
            assert float(rows[key]["value"]) == value["value"]
            assert float(ends["lowerBound"]) == value["ci_low"]
            assert float(ends["upperBound"]) == value["ci_high"]


def test_who_pays_is_a_trade_off_and_a_harm() -> None:
    document = repair(["a", "b"], gain=0.1)
    document["evaluations"]["difference"]["accuracy:b"] = figure(-0.2, 0.1)
    considered = bill(document)["metadata"]["component"]["modelCard"]["considerations"]
    assert "surely lowers the accuracy of group b" in considered["performanceTradeoffs"][0]
    of_a, of_b = considered["fairnessAssessments"]
    assert of_b["harms"].startswith("surely loses: accuracy -20.0 points")
    assert of_a["harms"].startswith("no loss is sure")


def test_the_same_repair_gives_the_same_bill_and_another_another() -> None:
    first, same = (bill(repair(HOSTILE, frozen=["conv:1"], notes=HOSTILE)) for _ in range(2))
    other = bill(repair(HOSTILE), made={"model.patched.onnx": "f" * 64})
    assert first == same
    assert first["serialNumber"] != other["serialNumber"]
    assert hashes_in(other) == ("f" * 64, "b" * 64)


def test_files_of_weights_and_odd_names_stand_in_it() -> None:
    made = {**MADE, "weights \udcff.bin": "e" * 64}
    read = bill(repair([]), made=made, patch_file="a b\u05e9\udcff.patch.json")
    model = read["metadata"]["component"]
    (weights,) = model["components"]
    assert weights["hashes"] == [{"alg": "SHA-256", "content": "e" * 64}]
    assert model["pedigree"]["patches"][0]["diff"]["url"] == "a%20b%D7%A9%FF.patch.json"
    assert "fairnessAssessments" not in model["modelCard"]["considerations"]


def test_without_figures_nothing_is_said_of_better_or_worse() -> None:
    document = repair([], objective="accuracy")
    document |= {"objective": None, "changed": None}
    for end in ("before", "after"):
        document["evaluations"][end]["metrics"] = {}
    document["evaluations"]["difference"] = {}
    document["verification"]["n_images"] = 64
    model = bill(document)["metadata"]["component"]
    assert "quantitativeAnalysis" not in model["modelCard"]
    assert "modelCard" not in model["pedigree"]["ancestors"][0]
    assert "No metric was computed" in model["description"]


@pytest.mark.parametrize("name", sorted(ODD.keys() - {"a thousand groups by column"}))
def test_odd_repairs_have_bills(name: str) -> None:
    assert bill(ODD[name])["metadata"]["component"]["name"] == "model.patched.onnx"


def test_figures_that_images_do_not_define_are_left_out_and_trees_called_trees() -> None:
    block = fairness(["a", "b"])
    names = [*block["columns"][-1]["disparities"]]
    block["columns"][-1]["disparities"] = dict.fromkeys(names)
    undefined = {"value": None, "ci_low": None, "ci_high": None}
    group = block["columns"][-1]["groups"][0]
    group |= dict.fromkeys(("before", "after", "difference"), undefined)
    text = json.dumps(bill(repair(["a", "b"], fairness=block, unit="tree")))
    assert "accuracy these images do not tell" in text
    assert "Freezing 2 trees" in text
    assert "filters " not in text
