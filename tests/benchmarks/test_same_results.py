"""The script that compares two checkouts can tell a difference."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import same_results

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_one_checkout_gives_the_same_results_twice() -> None:
    assert same_results.compare(ROOT, ROOT, "instrument") == []


@pytest.mark.long
def test_a_failing_command_and_another_result_are_told(tmp_path: Path) -> None:
    other = tmp_path / "repairkit"
    other.mkdir()
    (other / "__init__.py").touch()
    (other / "cli.py").write_text(
        "from pathlib import Path\n"
        "def main():\n    Path('instrumented.onnx').write_text('other')\n    raise SystemExit(3)\n"
    )
    differences = same_results.compare(ROOT, tmp_path, "instrument")
    assert any(line.startswith("instrumented.onnx: ") for line in differences)
    assert "exit code 0: 3 " in differences


@pytest.mark.long
def test_what_tells_of_the_moment_is_left_out() -> None:
    document = {"seconds": 3, "filters": [{"value": 1, "created": "today"}]}
    assert same_results._timeless(document) == {"filters": [{"value": 1}]}
    assert same_results._without_moment("value 3\ntook 4.1 s\nend") == "value 3\nend"
