"""The statement beside a patched model or an overlay: written with it, and checked by `verify`.

The statement holds the SHA-256 of every file that was written with it but the model card, which is
there to be edited and carries a digest of its own. So each byte has a check: that of the statement
is its seal and form, that of all others a digest in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnx import ModelProto

from repairkit.core import errors
from repairkit.core.process.writing import Drafts
from repairkit.formats import documents
from repairkit.formats.patch_file import PatchFile, patch_file_text
from repairkit.formats.provenance import statement_file
from repairkit.formats.provenance.statement_file import Digests, Making
from repairkit.graph import metadata
from repairkit.graph.stored import model_files
from repairkit.jobs.output import destination
from repairkit.jobs.proof import overlay_file
from repairkit.report.records import bill

FITS, EDITED, MISSING = "fits", "edited", "missing"


def statement_of(made: Path) -> Path:
    """Where the statement of a patched model or of an overlay lies."""
    if _is_overlay(made):  # a model of the same stem may be beside it
        return made.with_name(f"{made.name}.intoto.json")
    return destination.Companions.of(made).statement


def check_statement_place(made: Path) -> None:
    """Refuse to replace anything but a statement of ours.

    Raises:
        RunFolderError: something else is there.
    """
    place = statement_of(made)
    destination.check_replaced(place, statement_file.MARK, "statement of repairkit's")


def write_repair(
    model: ModelProto,
    out: Path,
    *,
    source: model_files.ModelFile,
    file: PatchFile,
    report: Mapping[str, Any],
    texts: Mapping[Path, str],
) -> None:
    """Write all files of a repair together, the model last: where it lies, the others lie too.

    Args:
        model: the patched model.
        out: where it goes.
        source: the model that was patched.
        file: the patch file.
        report: what the report says.
        texts: of the report and all else that tells of the repair, by their places.

    Raises:
        RunFolderError: the disk is full, or another file is in the way of the model's weights.
    """
    places = destination.Companions.of(out)
    with documents.outputs(out) as drafts:
        drafts.write(places.patch_file, patch_file_text(file).encode())
        for path, text in texts.items():
            drafts.write(path, text.encode())
        model_files.add_model(drafts, model, out)
        made = model_files.drafted_files(drafts, model, out)
        before, name = model_files.files_of(source.path), places.patch_file.name
        bill_text = bill.bill_text(report, patch_file=name, made=made, source=before)
        drafts.write(places.bill, bill_text.encode())
        add_statement(
            drafts,
            made,
            out,
            source=before,
            file=file,
            patch_file={name: drafts.digests()[places.patch_file]},
            beside=[*(path for path in texts if path != places.card), places.bill],
        )


def add_statement(
    drafts: Drafts,
    made: Digests,
    out: Path,
    *,
    source: Digests,
    file: PatchFile,
    patch_file: Mapping[str, str],
    beside: Sequence[Path] = (),
) -> None:
    """Add the statement to the drafts of what it is about, and let that appear last.

    A statement that is there already and is about the same bytes and patch stays: it may name
    further files that were written with it.

    Args:
        drafts: what is written together.
        made: the files of the patched model, or the overlay.
        out: the first of them.
        source: the files of the model that was patched.
        file: the patch.
        patch_file: the name and the SHA-256 of its file.
        beside: drafts that tell of the patch.

    Raises:
        OSError: a draft cannot be read or written.
    """
    drafted = drafts.digests()
    making = Making(
        way="overlay" if _is_overlay(out) else "apply",
        version=version("repairkit"),
        made=made,
        source=source,
        patch_file=patch_file,
        beside={path.name: drafted[path] for path in beside},
        source_digest=file.source_digest,
        result_digest=file.result_digest,
        claim={**file.claim(), "digest": file.digest},
    )
    if beside or not _is_told(statement_of(out), making):
        text = statement_file.statement_text(making)
        drafts.write(statement_of(out), text.encode())
    drafts.rename_last(out)


def _is_told(place: Path, making: Making) -> bool:
    """Whether a whole statement about the same bytes and patch is at a place."""
    if not place.is_file():
        return False
    try:
        there = statement_file.read_statement(place)
    except errors.VerificationError:
        return False
    return (there.made, there.claim) == (making.made, making.claim)


def check_beside(
    original: model_files.ModelFile, made: model_files.ModelFile, patch_file: Path | None
) -> dict[str, str]:
    """Check the files that tell of a patched model or an overlay, where they lie beside it.

    Args:
        original: the model before.
        made: the patched model, at its own place or at that of the overlay that gives it.
        patch_file: where it lies; beside `made` if None.

    Returns:
        By the name of each file: that it `fits`, that a card was `edited`, or that a file which the
        statement names is `missing`. Empty where there is neither a statement nor a bill.

    Raises:
        VerificationError: a file was altered, or is about other files than these.
    """
    place = statement_of(made.path)
    bill_there = {} if _is_overlay(made.path) else _bill(original, made)
    if not place.is_file():
        return bill_there
    making = statement_file.read_statement(place)
    for fault in _faults(making, original, made):
        raise errors.VerificationError(f"{place}: {fault}")
    folder, (patch_name, patch_digest) = made.path.parent, *making.patch_file.items()
    named = {patch_file or folder / Path(patch_name).name: patch_digest}
    named |= {folder / Path(name).name: digest for name, digest in making.beside.items()}
    return {place.name: FITS, **_fitting(named, place), **bill_there, **_card(made.path)}


def _bill(original: model_files.ModelFile, made: model_files.ModelFile) -> dict[str, str]:
    """Whether a bill of materials of ours names these two models.

    A statement covers all else in it, and tells where a bill became none of ours.

    Raises:
        VerificationError: it does not, or is damaged.
    """
    place = destination.Companions.of(made.path).bill
    if not place.is_file() or bill.MARK not in place.read_bytes()[: bill.MARK_WITHIN]:
        return {}
    try:
        digests = bill.hashes_in(documents.read_json(place, "a bill of materials"))
    except (LookupError, TypeError, errors.RunFolderError) as error:
        reason = error if isinstance(error, errors.RunFolderError) else repr(error)
        raise errors.VerificationError(
            f"{place}: was altered, or is no bill of materials of repairkit ({reason})"
        ) from error
    claims = metadata.read_claims(made.model)
    is_source = bool(claims) and claims[-1]["source"] == original.digest
    for model, digest in zip([made, original][: 1 + is_source], digests, strict=False):
        now = model_files.digest_of_file(model.path)
        if now != digest:
            raise errors.VerificationError(
                f"{place}: is about another file than {model.path.name} (SHA-256 {digest[:12]}, "
                f"and this one has {now[:12]}); one of the two was changed"
            )
    return {place.name: FITS}


def _card(made: Path) -> dict[str, str]:
    """Whether the model card beside a patched model is as it was written."""
    card = destination.Companions.of(made).card
    if _is_overlay(made) or not card.is_file():
        return {}
    return {card.name: FITS if destination.is_card_as_written(card) else EDITED}


def _is_overlay(made: Path) -> bool:
    return made.suffix.lower() == overlay_file.ENDING


def _faults(
    making: Making, original: model_files.ModelFile, made: model_files.ModelFile
) -> Iterator[str]:
    """What a statement says of the models and the patch that is not so."""
    name, claims = made.path.name, metadata.read_claims(made.model)
    files = {name: model_files.digest_of_file(made.path)}
    if not _is_overlay(made.path):
        files = model_files.files_of(made.path)
    if [*making.made.values()] != [*files.values()]:
        yield (
            f"is about another file than {name} (SHA-256 {making.made[making.name][:12]}, and "
            f"this one has {files[name][:12]}); one of the two was changed"
        )
    if [making.claim] != claims[-1:] or making.result_digest != made.digest:
        yield f"names another patch or result than {name}; one of the two was changed"
    if making.source_digest != claims[-1]["source"]:
        yield "names another model as its source than the patch does; it was altered"
    # Of several patches, the last was made of a model that is not at hand.
    if making.source_digest == original.digest:
        files = model_files.files_of(original.path)
        if [*making.source.values()] != [*files.values()]:
            yield f"names other files as its source than those of {original.path.name}"


def _fitting(named: Mapping[Path, str], statement: Path) -> dict[str, str]:
    """Which of the files that a statement names fit it.

    Raises:
        VerificationError: one is there and does not fit.
    """
    there = {}
    for path, digest in named.items():
        if not path.is_file():
            there[path.name] = MISSING
            continue
        now = model_files.digest_of_file(path)
        if now != digest:
            raise errors.VerificationError(
                f"{path}: is not the file that {statement.name} names (SHA-256 "
                f"{now[:12]}, not {digest[:12]}): it was changed after the repair; get it again "
                "from where the repair was made"
            )
        there[path.name] = FITS
    return there
