"""Results of jobs: figures, proofs, patches made, models exported and attacked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from repairkit.core import filters, framework
from repairkit.core.metric import Measure
from repairkit.core.process.text import counted

_LONGEST = 60


@dataclass(frozen=True)
class Figure:
    """A figure with its interval; NaN where the images do not define it."""

    value: float
    ci_low: float
    ci_high: float

    @classmethod
    def from_json(cls, figure: Mapping[str, float | None]) -> Figure:
        """The figure that `to_json` wrote."""
        return cls(**{name: math.nan if end is None else end for name, end in figure.items()})

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)

    def to_json(self) -> dict[str, float | None]:
        """Null for what is not defined."""
        ends = {"value": self.value, "ci_low": self.ci_low, "ci_high": self.ci_high}
        return {name: None if math.isnan(end) else end for name, end in ends.items()}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One model's metrics on one suite, overall and per group, with intervals."""

    suite: str
    n_images: int
    metrics: dict[str, Figure]
    groups: dict[str, Figure]
    group_sizes: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Figures that are not defined are null."""
        return {
            "suite": self.suite,
            "n_images": self.n_images,
            "metrics": {name: figure.to_json() for name, figure in self.metrics.items()},
            "groups": {name: figure.to_json() for name, figure in self.groups.items()},
            "group_sizes": dict(self.group_sizes),
        }


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was found on `n_images` images, of all outputs of the model.

    `exact`: all outputs equal bit for bit with graph optimisation off. `relative`: the largest
    difference with it on, relative to the largest number of that output. `same_answer`: the
    class with the largest score is the same for every image (true where outputs are no scores).
    `changed`: on some image some output is not that of the model as it was. `tolerance` is the
    `relative` difference that rounding at another place may cause; 0 where all must be `exact`.
    Then `relative` is the largest with optimisation and without. `against` says in words what the
    outputs were compared with.
    """

    n_images: int
    exact: bool
    relative: float
    same_answer: bool
    changed: bool = True
    tolerance: float = 0.0
    against: str = "the masked original"

    @property
    def holds(self) -> bool:
        return self.exact or self.relative < self.tolerance

    def joined(self, other: Proof) -> Proof:
        """What two proofs on the same images show together."""
        return Proof(
            n_images=self.n_images,
            exact=self.exact and other.exact,
            relative=max(self.relative, other.relative),
            same_answer=self.same_answer and other.same_answer,
            changed=self.changed or other.changed,
            tolerance=max(self.tolerance, other.tolerance),
            against=" and ".join(dict.fromkeys((self.against, other.against))),
        )


@dataclass(frozen=True, kw_only=True)
class RuntimeAgreement:
    """What was found in another runtime, beside ONNX Runtime on the CPU.

    Attributes:
        runtime: its name.
        version: its version.
        how: how it computed, in words.
        n_images: how many images were compared.
        relative: the largest difference of outputs, relative to the largest number of the output.
        tolerance: the difference that rounding may cause.
        other_answers: images for which another class has the largest score, although the scores in
            ONNX Runtime do not tie within the tolerance.
        n_constant: wholly frozen filters, whose values were read there.
        unread: ids of frozen filters whose values no tensor shows: partly frozen ones, and trees.
        spread: the largest range of the values of one such filter, over images and positions.
        offset: the largest distance of such a value from the filter's constant.
    """

    runtime: str
    version: str
    how: str
    n_images: int
    relative: float
    tolerance: float
    other_answers: int
    n_constant: int
    unread: tuple[str, ...]
    spread: float
    offset: float

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "unread": list(self.unread)}


@dataclass(frozen=True, kw_only=True)
class QuantisedFilter:
    """A frozen filter in a quantised copy.

    Attributes:
        filter: its id.
        tensor: where it was read in the copy.
        constant: what it is to give there: its constant, behind the activation if that was fused.
        spread: the range of its values in the copy.
        offset: the greatest distance of them from `constant`.
        step: the quantisation step of the tensor; 0 where it holds floats.
    """

    filter: str
    tensor: str
    constant: float
    spread: float
    offset: float
    step: float


@dataclass(frozen=True, kw_only=True)
class KeptGain:
    """Whether a quantised copy keeps what the patch gained, on images that chose nothing.

    Attributes:
        metric: that is judged.
        measure: what its figures are.
        verdict: `kept`, `partly`, `lost` or `undecided`.
        why: the verdict's reason.
        suite: the part of the data.
        n_images: of this part.
        seed: of the parts and intervals.
        figures: the metric of `original`, `patched`, `quantised`, and `quantised_original` where it
            was given.
        changes: differences between them, by the paired bootstrap: `patch`, `quantised`,
            `quantisation` and, where given, `among_quantised`.
        unseen: whether the patch file shows that these images chose nothing; None where it cannot
            tell, False where it shows that some of them did.
    """

    metric: str
    measure: Measure
    verdict: str
    why: str
    suite: str
    n_images: int
    seed: int
    figures: Mapping[str, Figure]
    changes: Mapping[str, Figure]
    unseen: bool | None

    def to_json(self) -> dict[str, Any]:
        tables = {
            name: {key: figure.to_json() for key, figure in table.items()}
            for name, table in (("figures", self.figures), ("changes", self.changes))
        }
        return {**vars(self), "measure": self.measure.to_json(), **tables}


@dataclass(frozen=True, kw_only=True)
class QuantisedCopy:
    """What was found of a quantised copy of the patched model.

    Attributes:
        path: the copy.
        digest: of it.
        n_images: images on which frozen filters were read.
        filters: the frozen filters that are constant in it.
        unread: ids of frozen filters that are not constant by design, since they are frozen partly.
        gain: None where no labelled data was given; `no_gain` then says so.
        no_gain: why there is none.
    """

    path: str
    digest: str
    n_images: int
    filters: tuple[QuantisedFilter, ...]
    unread: tuple[str, ...]
    gain: KeptGain | None
    no_gain: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "filters": [vars(each) for each in self.filters],
            "unread": list(self.unread),
            "gain": None if self.gain is None else self.gain.to_json(),
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class Verified:
    """What was proven about a patched model.

    Attributes:
        patch: the proven changes.
        edits: the changed tensors.
        proof: the comparison of outputs.
        images: in words, the images that outputs were compared on.
        inferred: whether the changes were read off the tensors, because no claim named them.
        unproven: names of further facts in the patch file, which two models cannot prove.
        layers: the layers that the filters come from, if the original knows them.
        beside: files beside the patched model that tell of it, by name: each `fits`, was `edited`
            (a model card), or is `missing`.
        runtimes: what was found in other runtimes, where any were asked for.
        quantised: what was found of a quantised copy, where one was given.
    """

    patch: filters.Patch
    edits: tuple[filters.TensorEdit, ...]
    proof: Proof
    images: str
    inferred: bool = False
    unproven: tuple[str, ...] = ()
    layers: framework.LayerMap | None = None
    beside: Mapping[str, str] = field(default_factory=dict)
    runtimes: tuple[RuntimeAgreement, ...] = ()
    quantised: QuantisedCopy | None = None

    def __repr__(self) -> str:
        equal = "exactly" if self.proof.exact else f"but for {self.proof.relative:.2g}"
        return (
            f"Verified: {_changes(self.patch)}, and nothing else; outputs agree {equal} on "
            f"{counted(self.proof.n_images, 'image')} ({self.images})"
        )

    def to_json(self) -> dict[str, Any]:
        head = self.patch.head
        return {
            "verified": True,
            "inferred": self.inferred,
            "frozen": [frozen_entry(f, self.layers) for f in self.patch.frozen],
            **({} if head is None else {"head": {"kind": head.kind, "layer": head.layer}}),
            "tensors": [e.tensor for e in self.edits],
            "n_images": self.proof.n_images,
            "images": self.images,
            "exact_without_optimisation": self.proof.exact,
            "relative_difference_with_optimisation": self.proof.relative,
            "same_answers": self.proof.same_answer,
            "unproven": list(self.unproven),
            **({"beside": dict(self.beside)} if self.beside else {}),
            **({"runtimes": [r.to_json() for r in self.runtimes]} if self.runtimes else {}),
            **({} if self.quantised is None else {"quantised": self.quantised.to_json()}),
        }


def _changes(patch: filters.Patch) -> str:
    frozen = f"{counted(len(patch.frozen), 'filter')} frozen"
    if patch.head is None:
        return frozen
    return f"{patch.head.layer[:_LONGEST]} changed" + (f", {frozen}" if patch.frozen else "")


def frozen_entry(
    frozen: filters.FrozenFilter, layers: framework.LayerMap | None = None
) -> dict[str, Any]:
    """A frozen filter as JSON, with the layer that it comes from where that is known."""
    origin = None if layers is None else layers.origin(frozen.filter)
    return {
        "filter": frozen.filter.id,
        **({} if origin is None else {"layer": str(origin)}),
        "constant": frozen.constant,
        **({"gain": frozen.gain} if frozen.gain else {}),
    }


class Repair(Protocol):
    """A repair that was made and proven, with figures on the images that report."""

    @property
    def objective(self) -> str | None:
        """The metric that was to improve; None where no metric was computed."""
        ...

    @property
    def patch(self) -> filters.Patch:
        """What was changed."""
        ...

    @property
    def verified(self) -> Verified:
        """The proof."""
        ...

    @property
    def before(self) -> Evaluation:
        """Of the model as it was."""
        ...

    @property
    def after(self) -> Evaluation:
        """Of the patched model."""
        ...

    @property
    def change(self) -> dict[str, Figure]:
        """The differences of the figures."""
        ...

    @property
    def document(self) -> dict[str, Any]:
        """What the report says."""
        ...


@dataclass(frozen=True, repr=False)
class Applied:
    """A patch that was applied, and what was proven about the result."""

    out: Path
    digest: str
    verified: Verified

    def to_json(self) -> dict[str, Any]:
        return {"model": str(self.out), "digest": self.digest, **self.verified.to_json()}

    def __repr__(self) -> str:
        return f"Applied: {self.out.name[:_LONGEST]}, {_changes(self.verified.patch)}"


@dataclass(frozen=True, repr=False)
class Reverted:
    """A patch that was reverted. `digest` is the original's; `left` counts remaining patches.

    `was_there` says that the original was in its place already, and nothing was written.
    """

    out: Path
    digest: str
    patch: filters.Patch
    left: int
    was_there: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.out),
            "digest": self.digest,
            "was_there": self.was_there,
            "taken_off": [f.filter.id for f in self.patch.frozen],
            **({} if self.patch.head is None else {"head_restored": self.patch.head.layer}),
            "patches_left": self.left,
        }

    def __repr__(self) -> str:
        left = counted(self.left, "patch") if self.left < 2 else f"{self.left:,} patches"
        off = f"patch of {counted(len(self.patch.frozen), 'filter')} taken off"
        return f"Reverted: {self.out.name[:_LONGEST]}, {off}, {left} left"


@dataclass(frozen=True, kw_only=True, repr=False)
class Exported:
    """A model that was written, and what was proven about it.

    Attributes:
        out: the ONNX file.
        map_file: the map from layers to filters; the ONNX file's metadata has it too.
        layers: that map.
        n_filters: of all sites.
        without_layer: sites that come from no layer of the framework.
        relative: the largest difference of outputs, relative to the largest output.
        n_images: how many images were compared.
        images: in words, whether images were given or generated.
        digest: of the ONNX file.
    """

    out: Path
    map_file: Path
    layers: framework.LayerMap
    n_filters: int
    without_layer: tuple[str, ...]
    relative: float
    n_images: int
    images: str
    digest: str

    @property
    def n_mapped(self) -> int:
        return sum(m.layer.n_channels for m in self.layers.layers if m.site is not None)

    @property
    def n_proven(self) -> int:
        return self.n_mapped - sum(len(m.unproven) for m in self.layers.layers)

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.out),
            "digest": self.digest,
            "map": str(self.map_file),
            "n_filters": self.n_filters,
            "n_mapped": self.n_mapped,
            "n_proven": self.n_proven,
            "sites_without_layer": list(self.without_layer),
            "parity": {
                "relative": self.relative,
                "n_images": self.n_images,
                "images": self.images,
            },
            **self.layers.to_json(),
        }

    def __repr__(self) -> str:
        sizes = f"{counted(self.n_filters, 'filter')}, {self.n_mapped:,} from layers"
        parity = f"outputs agree but for {self.relative:.2g}"
        return (
            f"Exported: {self.out.name[:_LONGEST]}, {sizes}; {parity} on {self.images[:_LONGEST]}"
        )


@dataclass(frozen=True, repr=False)
class Attacked:
    """A data set that was attacked, and the file of its images."""

    out: Path
    document: dict[str, Any]

    def __repr__(self) -> str:
        return (
            f"Attacked: {self.out.name[:_LONGEST]}, {counted(self.document['n_images'], 'image')}"
        )
