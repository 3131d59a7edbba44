"""Every fault of the user's ends in one clear line, the right exit code and no half-done file."""

from __future__ import annotations

import importlib
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests import models
from tests.conftest import Answer, Project, write_project

Command = Callable[..., Answer]
QUICK = ("--max-evaluations", "1000", "--quiet")


def refused(answer: Answer, code: int, *words: str) -> None:
    assert answer.code == code, answer.err
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("repairkit: ")
    assert "Traceback" not in answer.err
    assert answer.out == ""
    for word in words:
        assert word in answer.err


def test_no_data(repairkit: Command, project: Project, tmp_path: Path) -> None:
    (project.folder / "repairkit.toml").unlink()
    refused(repairkit("score", project.model), 1, "no images were given", "--data")
    assert not (tmp_path / "runs").exists()


def test_no_model(repairkit: Command) -> None:
    refused(repairkit("score"), 1, "no model was given")


def test_data_that_is_not_there(repairkit: Command, project: Project) -> None:
    refused(repairkit("score", project.model, "--data", "nowhere.npz"), 1, "nowhere.npz")


def test_a_label_outside_the_classes(repairkit: Command, project: Project) -> None:
    x = models.images(30)
    np.savez(project.data, x=x, y=np.full(30, 7), group=np.full(30, "a"))
    refused(repairkit("score", project.model), 1, "label 7", "0 to 2")


def test_a_wrong_input_shape(repairkit: Command, project: Project) -> None:
    np.savez(project.data, x=np.zeros((30, 2, 5, 6), np.float32), y=np.zeros(30, int))
    refused(repairkit("score", project.model, "--group", ""), 1, "empty name")
    (project.folder / "repairkit.toml").unlink()
    refused(repairkit("score", project.model, "--data", project.data), 1, "2", "5", "6")


def test_a_file_that_is_not_onnx(repairkit: Command, tmp_path: Path) -> None:
    for content in (b"", b"not a model at all", bytes(range(256)) * 9):
        wrong = tmp_path / "wrong.onnx"
        wrong.write_bytes(content)
        refused(repairkit("inspect", wrong), 1, "wrong.onnx", "not an ONNX model")
    refused(repairkit("inspect", tmp_path / "none.onnx"), 1, "there is no such file")


def test_a_model_without_sites(repairkit: Command, project: Project) -> None:
    onnx.save(models.dense_units(), project.model)
    refused(repairkit("score", project.model), 1, "no filter that could be frozen")
    listed = repairkit("inspect", project.model)
    assert listed.code == 0
    assert "--include dense" in listed.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--metric", "acuracy"), ("acuracy", "accuracy")),
        (("--metric", "recall:9"), ("9",)),
        (("--sites", "conv9"), ("no site matches 'conv9'", "conv")),
        (("--group", "race"), ("race", "group")),
        (("--method", "shapely"), ("shapely", "tmab")),
        (("--output", "scores"), ("scores", "logits")),
        (("--absent", "median"), ("median", "mean, zero, bias")),
        (("--device", "tpu"), ("tpu", "auto, cpu, cuda")),
        (("--method", "exact", "--epsilon", "0.1"), ("epsilon",)),
        (("--max-evaluations", "1", "--quiet"), ("1",)),
        (("--calibration", "0.9", "--selection", "0.9"), ("add up to 2.1",)),
        (("--scale", "fast"), ("fast",)),
        (("--cache-memory", "lots"), ("lots", "512M")),
    ],
)
def test_an_option_that_makes_no_sense(
    repairkit: Command, project: Project, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(repairkit("score", project.model, *arguments), 1, *words)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("score", ("--metric", "acuracy")),
        ("score", ("--metric", "accuracy", "--metric", "recal")),
        ("patch", ("--objective", "acuracy")),
        ("patch", ("--objective", "loss", "--target", "worst_group_acuracy>=0.5")),
    ],
)
def test_a_metric_that_is_unknown_is_told_before_images_are_read(
    repairkit: Command, project: Project, command: str, arguments: tuple[str, ...]
) -> None:
    project.data.write_bytes(b"no archive")
    answer = repairkit(command, project.model, *arguments)
    refused(answer, 1, "there is no metric")


def test_cuda_where_there_is_none(repairkit: Command, project: Project) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    refused(repairkit("score", project.model, "--device", "cuda"), 1, "no CUDA", "repairkit[cuda]")


def test_an_unknown_option_is_wrong_usage(repairkit: Command, project: Project) -> None:
    answer = repairkit("score", project.model, "--metrics", "accuracy")
    assert answer.code == 2
    assert "--metric" in answer.err


def test_an_unknown_filter(repairkit: Command, project: Project, tmp_path: Path) -> None:
    for wanted, word in (("conv:99", "4 filters"), ("stem:0", "no site"), ("conv", "SITE:CHANNEL")):
        refused(repairkit("patch", project.model, "--remove", wanted), 1, word)
    assert not list(tmp_path.glob("*.patched*"))


def test_a_patch_that_nothing_asks_for(repairkit: Command, project: Project) -> None:
    refused(
        repairkit("patch", project.model), 1, "--target METRIC>=NUMBER, --scores RUN or --remove"
    )
    refused(repairkit("patch", project.model, "--fairness", "--remove", "conv:0"), 1, "leave out")


def test_fairness_without_groups(repairkit: Command, project: Project) -> None:
    (project.folder / "repairkit.toml").unlink()
    refused(repairkit("patch", project.model, "--data", project.data, "--fairness"), 1, "--group")


def test_a_group_with_no_image_in_a_part(repairkit: Command, project: Project) -> None:
    stored = dict(np.load(project.data))
    stored["group"][:] = "a"
    stored["group"][0] = "b"
    np.savez(project.data, **stored)
    refused(repairkit("patch", project.model, "--fairness"), 1, "'b'")


def test_a_pickled_npz(repairkit: Command, project: Project) -> None:
    stored = dict(np.load(project.data))
    np.savez(project.data, **stored, extra=np.array([{"a": 1}], dtype=object))
    refused(repairkit("score", project.model), 1, "data.npz", "pickle")


def manifest(folder: Path, image: Path) -> Path:
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 6), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    rows = [f"{i}.png,{i % 3}" for i in range(12)]
    rows[4] = f"{image.name},1"
    (folder / "images.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    return folder / "images.csv"


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("fault", ["missing", "truncated", "bomb"])
def test_a_manifest_row_whose_image_cannot_be_read(
    repairkit: Command, tmp_path: Path, fault: str
) -> None:
    weights = {"w": np.ones((4, 1, 3, 3), np.float32)}
    nodes = [onnx.helper.make_node("Conv", ["image", "w"], ["y"], "conv")]
    model = models.model_of(nodes + models.head("y", weights, 4), weights)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, tmp_path / "gray.onnx")
    image = tmp_path / "odd.png"
    data = manifest(tmp_path, image)
    if fault == "truncated":
        image.write_bytes((tmp_path / "0.png").read_bytes()[:-40])
    elif fault == "bomb":
        image.write_bytes(png_of(60000, 60000))
    answer = repairkit("score", tmp_path / "gray.onnx", "--data", data)
    refused(answer, 1, "odd.png", "row 6")
    assert not (tmp_path / "runs").exists()


def test_an_output_folder_that_holds_another_models_run(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    first = repairkit("score", project.model, "-o", "run", *QUICK)
    assert first.code == 0, first.err
    kept = (tmp_path / "run" / "scores.csv").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    another = write_project(other, layer="normalised")
    refused(repairkit("score", another.model, "-o", "run", *QUICK), 1, "a run of another model")
    refused(repairkit("patch", another.model, "--scores", "run"), 1, "scores of another model")
    assert (tmp_path / "run" / "scores.csv").read_bytes() == kept


def test_an_output_folder_that_holds_something_else(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    refused(repairkit("score", project.model, "-o", "letters", *QUICK), 1, "is no run folder")
    refused(repairkit("score", project.model, "-o", "new", "--resume", *QUICK), 1, "no run to res")


def test_the_patched_model_never_replaces_the_model(repairkit: Command, project: Project) -> None:
    before = project.model.read_bytes()
    answer = repairkit("patch", project.model, "--remove", "conv:0", "-o", project.model)
    refused(answer, 1, "is the model itself")
    assert project.model.read_bytes() == before


def test_what_repairkit_did_not_write_is_never_replaced(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    before = project.data.read_bytes()
    remove = ("patch", project.model, "--remove", "conv:0", "-o")
    refused(repairkit(*remove, project.data), 1, "is the data")
    (tmp_path / "letter.txt").write_text("dear")
    refused(repairkit(*remove, "letter.txt"), 1, "no model that repairkit patched")
    assert project.data.read_bytes() == before
    assert (tmp_path / "letter.txt").read_text() == "dear"
    assert repairkit(*remove, "out.onnx", "--quiet").code == 0
    assert repairkit(*remove, "out.onnx", "--quiet").code == 0  # its own result, though


def test_the_demo_never_replaces_files_of_the_users(repairkit: Command, tmp_path: Path) -> None:
    (tmp_path / "repairkit.toml").write_text("# mine")
    refused(repairkit("demo", "-o", tmp_path), 1, "is not the sample's")
    assert (tmp_path / "repairkit.toml").read_text() == "# mine"
    refused(repairkit("demo", "-o", tmp_path / "repairkit.toml"), 1, "cannot be made")


def test_a_mistake_destroys_no_finished_run(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    assert repairkit("score", project.model, "-o", "run", *QUICK).code == 0
    kept = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    other = repairkit("score", project.model, "-o", "run", "--metric", "loss", "--quiet")
    refused(other, 1, "other settings")
    small = repairkit("score", project.model, "-o", "run", "--max-evaluations", "1", "--quiet")
    assert small.code in (0, 1)  # what was learnt already may be told again
    refused(repairkit("score", project.model, "-o", "new", "--max-evaluations", "1", "--quiet"), 1)
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "run" / "scores.csv").read_bytes() == kept["scores.csv"]


def test_a_run_is_not_resumed_once_the_users_metric_has_changed(
    repairkit: Command, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "import numpy as np\ndef judge(outputs, labels, attributes):\n    return {}\n"
    (tmp_path / "mymetric.py").write_text(text.format("(outputs.argmax(1) == labels) * 1.0"))
    score = ("score", project.model, "--metric", "mymetric:judge", "-o", "run")
    assert repairkit(*score, *QUICK).code == 0
    sys.modules.pop("mymetric")
    (tmp_path / "mymetric.py").write_text(text.format("(outputs.argmax(1) != labels) * 1.0"))
    importlib.invalidate_caches()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    answer = repairkit(*score, "--resume", "--max-evaluations", "900", "--quiet")
    refused(answer, 1, "the metric, the runtime or the device has changed")


@pytest.mark.parametrize("place", ["data.npz/x.onnx", "n" * 300 + ".onnx"])
def test_a_place_that_cannot_be_ends_in_one_line(
    repairkit: Command, project: Project, place: str
) -> None:
    answer = repairkit("patch", project.model, "--remove", "conv:0", "-o", project.folder / place)
    refused(answer, 1)
    assert "please report" not in answer.err


def test_a_full_disk_leaves_no_half_written_file(project: Project, tmp_path: Path) -> None:
    """A limit on file size stands in for the disk: the operating system refuses the write."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from repairkit.cli import main; main()",
            "patch",
            str(project.model),
            "--remove",
            "conv:0",
            "--quiet",
            "-o",
            "out.onnx",
        ],
        cwd=tmp_path,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["project"]


@pytest.mark.parametrize("words", [("score",), ("patch", "--fairness", "-o", "repaired.onnx")])
def test_what_an_option_says_is_not_laid_to_the_project_file(
    repairkit: Command, project: Project, words: tuple[str, ...]
) -> None:
    command, *options = words
    (project.folder / "repairkit.toml").write_text('data = "data.npz"\ngroups = ["group"]\n')
    typed = repairkit(command, project.model, *options, "--group", "grup")
    assert typed.code == 1
    assert typed.err.startswith("repairkit: unknown group column 'grup'")
    (project.folder / "repairkit.toml").write_text('data = "data.npz"\ngroups = ["grup"]\n')
    in_file = repairkit(command, project.model, *options)
    assert in_file.code == 1
    assert 'groups = ["grup"] in ' in in_file.err
