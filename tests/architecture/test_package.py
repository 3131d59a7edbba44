"""What is shipped, what imports what, and what a newcomer finds."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_shipped() -> None:
    on_disk = {
        ".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("repairkit/**/__init__.py")
    }
    assert on_disk <= set(SETTINGS["tool"]["setuptools"]["packages"])


def test_each_folder_with_modules_is_a_package() -> None:
    modules = [*ROOT.glob("repairkit/**/*.py"), *ROOT.glob("adapters/repairkit_adapters/**/*.py")]
    folders = {module.parent for module in modules}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_no_link_is_kept_in_the_repository() -> None:
    """A link leads to a place of one machine."""
    kept = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode:
        pytest.skip("not a clone")
    assert not [line for line in kept.stdout.splitlines() if line.startswith("120000")]


def test_imports_point_downwards() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_importing_repairkit_loads_no_framework_and_no_runtime() -> None:
    heavy = "torch tensorflow keras onnxruntime pyarrow ray sklearn"
    code = f"import sys, repairkit.cli; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["--help"], ["score", "--help"], ["patch", "--help"]])
def test_help_loads_neither_numpy_nor_onnx(words: list[str]) -> None:
    """Importing them would take several times as long as everything else."""
    code = (
        "import sys; from repairkit.cli import run; assert run(sys.argv[1:]) == 0; "
        "heavy = {'numpy', 'onnx', 'onnxruntime', 'PIL', 'jinja2', 'repairkit.jobs'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_repairkit_loads_next_to_nothing() -> None:
    code = "import sys, repairkit; print(*[m for m in sys.modules if m.startswith('repairkit')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lazy = {"repairkit.core", "repairkit.core.process", "repairkit.core.process.lazy"}
    assert set(done.stdout.split()) == {"repairkit", *lazy}


@pytest.mark.parametrize("package", ["repairkit", "repairkit.api"])
def test_every_public_name_is_found_when_it_is_used(package: str) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None, name


@pytest.mark.slow
def test_the_wheel_holds_the_sample_and_the_schemas(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--quiet",
            "-w",
            str(tmp_path),
            str(ROOT),
        ],
        check=True,
        capture_output=True,
    )
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {
        "repairkit/py.typed",
        "repairkit/formats/run.schema.json",
        "repairkit/formats/patch.schema.json",
        "repairkit/report/report.schema.json",
        "repairkit/report/templates/base.html.j2",
        "repairkit/report/templates/style.css",
        "repairkit_adapters/__init__.py",
        "repairkit_samples/digits/model.onnx",
        "repairkit_samples/digits/digits.npz",
        "repairkit_samples/digits/repairkit.toml",
    } <= names
    assert not [n for n in names if n.startswith("tests")]


def test_every_module_says_what_it_is_for() -> None:
    for path in sorted(ROOT.glob("repairkit/**/*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        assert importlib.import_module(name).__doc__, name


def test_no_file_has_outgrown_its_purpose() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for p in ROOT.glob("repairkit/**/*.py")
        if (n := len(p.read_text().splitlines())) > 500
    }
    assert not long
