"""`repairkit demo`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli.commands.patch import print_patched, to_json
from repairkit.cli.options import options
from repairkit.cli.shown import show
from repairkit.core.errors import RunFolderError
from repairkit.formats.documents import write_bytes
from repairkit.formats.patch_file import read_patch_file
from repairkit.graph.stored.files import read_model
from repairkit.jobs.proof.verifying import verify
from repairkit.jobs.repair.patching import PatchSettings, patch

_FILES = ("model.onnx", "digits.npz", "repairkit.toml")
_SAMPLE = "repairkit_samples.digits"


def _copy_sample(folder: Path) -> None:
    """The sample's files, which never replace files of the user's.

    Raises:
        RunFolderError: the folder holds other files of these names, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder with -o"
        ) from error
    for name in _FILES:
        content, target = (files(_SAMPLE) / name).read_bytes(), folder / name
        if target.exists() and target.read_bytes() != content:
            raise RunFolderError(
                f"{target}: exists and is not the sample's; choose another folder with -o"
            )
        write_bytes(target, content)


def demo_command(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the sample and the patched model.")
    ] = Path("repairkit-demo"),
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Repair the packaged sample: digits that are read worse when dark on light."""
    _copy_sample(out)
    subject, settings = options.settle_job({"model": out / "model.onnx"})
    if not (as_json or quiet):
        show.say(f"A network that reads digits, and images in two groups, copied to {out}.")
        show.say(
            "repairkit patch --fairness --level best: score filters, freeze what harms, prove."
        )
    done = patch(
        subject,
        settings,
        PatchSettings(fairness=True, level="best"),
        out=out / "model.patched.onnx",
        on_progress=show.scoring_progress,
    )
    verified = verify(subject, read_model(done.out), file=read_patch_file(done.patch_file))
    if as_json:
        show.print_json({**to_json(done), "verified_from_disk": verified.to_json()})
    elif not quiet:
        print_patched(done)
        show.say("verification of the written file passed")
