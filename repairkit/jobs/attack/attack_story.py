"""How a patched model fares under attack, beside the model as it was, on images that chose nothing.

Three questions: how many of the adversarial images that the repair was made against still work;
how many images that are attacked anew, by an adversary who knows the patched model; and how many
that were made against other models (files of `repairkit attack --source OTHER`). Freezing filters
is a repair against the first, may help with the third, and is no defence against the second.
"""

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.attacks import Pgd, PixelBox, Square
from repairkit.core import attacked, errors, framework
from repairkit.core.process.stages import stage
from repairkit.core.suite import Annotations, Array, Suite
from repairkit.data.parts import split_parts
from repairkit.engine.runner import OpenModel
from repairkit.formats.attack_file import AttackRecord
from repairkit.formats.patch_file import PatchFile
from repairkit.graph.metadata import read_layer_map
from repairkit.jobs.attack import adversary
from repairkit.jobs.export.mapping import Pairing, prove_layers
from repairkit.jobs.setup.preparing import check_labels, read_dataset
from repairkit.jobs.setup.workbench import Bench, first_images

_PROOF_IMAGES = 64
_MAPPED_ON = 8
Made = Array


@dataclass(frozen=True)
class _Pair:
    """The model before and after."""

    before: adversary.Judged
    after: adversary.Judged

    def row(
        self,
        name: str,
        knowledge: str,
        images: tuple[Made, Made],
        annotations: Annotations,
    ) -> dict[str, Any]:
        """How many images each falls for; `images` are those made against the one and the other."""
        targets, labels = annotations.attributes[attacked.TARGET], annotations.labels
        row: dict[str, Any] = {"attack": name, "knowledge": knowledge, "n_images": len(labels)}
        for key, judged, made in zip(
            ("before", "after"), (self.before, self.after), images, strict=True
        ):
            said = judged.form.predictions(judged.outputs(made))
            row[key] = {
                "attack_success": asdict(adversary.share(said == targets)),
                "fooled": asdict(adversary.share(said != labels)),
            }
        return row


def check_attacks(bench: Bench, fresh: framework.FreshAttacks, *, baselines: bool = False) -> None:
    """Find out before the work begins what would end it.

    Args:
        bench: the workbench of the repair.
        fresh: what the patched model is to be attacked with.
        baselines: whether the source has another use.

    Raises:
        SettingsError: attacks were asked for, and the data holds no adversarial images.
        AdapterError: the source is another model than the one that is repaired.
        DataError: see `judge_attacks`.
    """
    if not attacked.is_attacked(bench.dataset.annotations):
        if fresh.transfers or (fresh.source and not baselines):
            raise errors.SettingsError(
                "--source and --transfer judge a repair under attack, and the data holds no "
                "adversarial images; give --data what repairkit attack wrote, or leave them out"
            )
        return
    if not len(bench.parts.test) and (fresh.transfers or (fresh.source and not baselines)):
        raise errors.SettingsError(
            "--source and --transfer attack test images, and --test none leaves none; give a test "
            "part, such as --test 0.3, or leave them out"
        )
    for path in fresh.transfers:
        adversary.read_attack_settings(path)
    if fresh.source is not None:
        images = first_images(bench.dataset, _PROOF_IMAGES)
        few = images.batch(np.arange(len(images)))
        given = adversary.attach(*fresh.source, few.shape[1:])
        _prove(given, _original(bench), few, "the model that is repaired")


@stage("attacking both models")
def judge_attacks(
    bench: Bench, patched: OpenModel, file: PatchFile, fresh: framework.FreshAttacks
) -> list[dict[str, Any]]:
    """A row for each attack: its name, what it knows, and its success before and after.

    A fresh attack that cannot be made is a row with a `note` and no figures.

    Raises:
        DataError: a file of transfers is no attack's, or holds images that filters were scored on.
    """
    before = _original(bench)
    pair = _Pair(before, replace(before, opened=patched))
    test = bench.parts.test
    if not len(test):
        row = {"attack": "the same images", "knowledge": "any", "n_images": 0}
        return [{**row, "note": "left out: there is no test part that chose nothing"}]
    made = np.flatnonzero(attacked.adversarial(test.annotations))
    images = test.batch(made)
    known = test.annotations.take(made)
    record = adversary.read_attack_settings(_path(bench))
    rows = [
        pair.row("the same images", record["source"]["knowledge"], (images, images), known),
        _fresh(bench, pair, file, fresh, record),
    ]
    used = _fingerprints(bench.parts.selection) | _fingerprints(bench.parts.calibration)
    return rows + [_transfer(bench, pair, path, used) for path in fresh.transfers]


def _original(bench: Bench) -> adversary.Judged:
    """The model as it is."""
    assert bench.form is not None
    return adversary.Judged(
        bench.working.opened, bench.form, bench.n_classes, bench.working.effort.batch_size
    )


def _path(bench: Bench) -> Path:
    assert bench.settings.data is not None
    return bench.settings.data


def _fresh(
    bench: Bench, pair: _Pair, file: PatchFile, fresh: framework.FreshAttacks, record: AttackRecord
) -> dict[str, Any]:
    """The test images attacked anew: the model as it was, and the patched one."""
    method = _method(record)
    row: dict[str, Any] = {"attack": "a fresh attack", "knowledge": "white-box", "n_images": 0}
    if isinstance(method, Square):
        row["knowledge"] = "black-box"
    elif fresh.source is None:
        return {**row, "note": "left out: its gradients need the framework's model, --source"}
    test = bench.parts.test
    known = test.annotations.take(np.flatnonzero(attacked.adversarial(test.annotations)))
    images = test.batch(_clean_twins(test.annotations))
    sources: tuple[adversary.GradientSource | None, adversary.GradientSource | None] = (None, None)
    if isinstance(method, Pgd):
        assert fresh.source is not None
        given = adversary.attach(*fresh.source, images.shape[1:])
        try:
            frozen = given.patched(file, _layers(bench, given, images))
            _prove(frozen, pair.after, images, "the patched model")
        except errors.AdapterError as error:
            return {**row, "note": f"left out: {error}"}
        sources = given, frozen
    box = _box(record, images.dtype)
    targets = known.attributes[attacked.TARGET].astype(np.intp)
    made = [
        adversary.Attack(method, box, judged, source)(
            images, targets, np.random.default_rng([bench.settings.seed, 1])
        )
        for judged, source in zip((pair.before, pair.after), sources, strict=True)
    ]
    return pair.row("a fresh attack", row["knowledge"], (made[0], made[1]), known)


def _layers(bench: Bench, source: adversary.GradientSource, images: Made) -> framework.LayerMap:
    """Which layers the filters are: as the ONNX file says, else found out and proven.

    Raises:
        AdapterError: the framework lays images out in another way, so it is not found out here.
    """
    known = read_layer_map(bench.subject.model)
    if known is not None:
        return known
    if source.order is not None:
        raise errors.AdapterError(
            "the ONNX file does not say which layers its filters are; write it with repairkit "
            "export"
        )
    return prove_layers(Pairing(source.model, bench.subject, images[:_MAPPED_ON], adversary.SAME))


def _clean_twins(annotations: Annotations) -> NDArray[np.intp]:
    """The position of the clean image that each adversarial one was made of, in their order."""
    made, numbers = attacked.adversarial(annotations), annotations.attributes.get(attacked.IMAGE)
    if numbers is not None:
        clean = {number: row for row, number in enumerate(numbers.tolist()) if not made[row]}
        if set(numbers[made].tolist()) <= set(clean):
            return np.array([clean[number] for number in numbers[made].tolist()], np.intp)
    raise errors.DataError(
        "the test part holds adversarial images without the clean ones that they were made of; "
        "leave --selection and --test to the split of the attack's file"
    )


def _prove(
    source: adversary.GradientSource, judged: adversary.Judged, images: Made, what: str
) -> None:
    """A white-box attack must follow the gradients of the very model that it is judged on."""
    few = images[:_PROOF_IMAGES]
    distance = adversary.parity(
        source.outputs(few, judged.batch_size), judged.outputs(few), judged.form
    )
    if not distance <= adversary.SAME:
        raise errors.AdapterError(
            f"{source.name}: answers otherwise than {what} (greatest difference {distance:.1e}, "
            f"at most {adversary.SAME:g} expected); give the --source that the ONNX file was "
            "exported from"
        )


def _transfer(bench: Bench, pair: _Pair, path: Path, used: set[bytes]) -> dict[str, Any]:
    """Images of another attack's test part, none of which was used to score or choose."""
    record = adversary.read_attack_settings(path)
    settings = replace(bench.settings, data=path)
    dataset = read_dataset(bench.subject, settings, regression=False)
    if not attacked.is_attacked(dataset.annotations):
        raise errors.DataError(
            f"{path}: holds no adversarial images; make it with repairkit attack"
        )
    check_labels(dataset, bench.n_classes, regression=False)
    test = split_parts(dataset, settings.parts, seed=settings.seed).test
    flags = attacked.adversarial(test.annotations)
    if _fingerprints(test.take(np.flatnonzero(~flags))) & used:
        raise errors.DataError(
            f"{path}: its test part holds images that filters were scored or chosen on; attack the "
            "same data with the same seed and parts"
        )
    made = np.flatnonzero(flags)
    images = test.batch(made)
    source = record["source"]
    name = f"from {source['name'] or 'the ONNX model'}"
    return pair.row(name, source["knowledge"], (images, images), test.annotations.take(made))


def _fingerprints(suite: Suite) -> set[bytes]:
    """Digests of a suite's images."""
    digests = set()
    for start in range(0, len(suite), 256):
        rows = np.arange(start, min(start + 256, len(suite)))
        digests |= {
            hashlib.blake2b(i.tobytes(), digest_size=16).digest() for i in suite.batch(rows)
        }
    return digests


def _method(record: AttackRecord) -> Pgd | Square:
    if record["method"] == "pgd":
        return Pgd(
            record["epsilon"], record["n_steps"], record["step_size"], record["random_start"]
        )
    return Square(record["epsilon"], record["n_queries"], record["first_share"])


def _box(record: AttackRecord, dtype: np.dtype[Any]) -> PixelBox:
    kept = record["pixel_range"]
    shape = (-1, 1, 1) if kept["channel_axis"] == 0 else (1, 1, -1)
    low, high = (np.array(ends, dtype).reshape(shape) for ends in (kept["low"], kept["high"]))
    return PixelBox(low, high, kept["channel_axis"])
