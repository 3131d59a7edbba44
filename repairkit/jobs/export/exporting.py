"""Write a framework's model as ONNX, prove that it computes the same, and map its layers."""

import tempfile
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from repairkit.core import errors, framework, results
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array
from repairkit.formats.documents import outputs, to_json
from repairkit.graph.kinds.sites import find_sites
from repairkit.graph.metadata import write_layer_map
from repairkit.graph.stored.model_files import add_model, read_model
from repairkit.jobs.export import group_proof
from repairkit.jobs.export.mapping import Done, Pairing, prove_layers, sites_without_layer
from repairkit.jobs.output.destination import check_export_place
from repairkit.jobs.setup import preparing, workbench
from repairkit.jobs.setup.subject import noise_images, read_subject

_PROOF_IMAGES = 64
_NOISE_IMAGES = 8
_RELATIVE = 1e-4
_RELATIVE_IN_16_BITS = 5e-3
KIND = "repairkit layers"


def export(
    model: framework.FrameworkModel,
    out: Path,
    *,
    settings: workbench.Settings,
    source: str = "model",
    one_by_one: bool = False,
    on_progress: Done | None = None,
) -> results.Exported:
    """Write a model with its map of layers; nothing is kept if the file computes something else.

    Args:
        model: from an adapter.
        out: the ONNX file; the map goes beside it as `NAME.layers.json`.
        settings: outputs are compared on the first images of their data, or on noise without data.
        source: what messages call the model.
        one_by_one: prove every filter by freezing it alone, also in a large model.
        on_progress: called with the number of mapped filters and of all filters.

    Raises:
        ExportError: a layer cannot be exported, or the ONNX file computes something else.
        RepairkitError: anything else that the user can mend.
    """
    map_file = layers_file(out)
    check_export_place(out, map_file, settings.data_file, KIND)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        draft = Path(folder) / out.name
        with stage("exporting"):
            model.export(draft)
        subject = read_subject(draft, output=settings.output, layout=settings.preprocessing.layout)
        _refuse_bfloat16(subject.model, source)
        given = settings.data is not None
        images = _images(subject, settings)
        relative, noise = _compare(model, subject, images, source)
        pair = Pairing(model, subject, images, noise)
        layers = _map_layers(pair, one_by_one=one_by_one, on_progress=on_progress)
        written = ModelProto()
        written.CopyFrom(subject.model)
        write_layer_map(written, layers)
        sites = find_sites(subject.model)
        check_export_place(out, map_file, settings.data_file, KIND)
        with outputs(out) as drafts:
            document = {"kind": KIND, **layers.to_json()}
            drafts.write(map_file, to_json(document).encode())
            add_model(drafts, written, out)
    return results.Exported(
        out=out,
        map_file=map_file,
        layers=layers,
        n_filters=sum(site.n_channels for site in sites),
        without_layer=sites_without_layer(layers, sites),
        relative=relative,
        n_images=len(images),
        images="given images" if given else "generated noise",
        digest=read_model(out).digest,
    )


def _map_layers(pair: Pairing, *, one_by_one: bool, on_progress: Done | None) -> framework.LayerMap:
    """The map of layers: every filter frozen alone, or in groups where that takes too long."""
    if not one_by_one and isinstance(pair.framework, framework.Readable):
        n_alone, n_filters = group_proof.passes_that_fit(pair)
        if n_alone < n_filters:
            return group_proof.prove_in_groups(
                pair, pair.framework, n_alone=n_alone, on_progress=on_progress
            )
    return prove_layers(pair, on_progress=on_progress)


def layers_file(out: Path) -> Path:
    """The path of the map of an exported model."""
    return out.with_name(f"{out.stem}.layers.json")


def _refuse_bfloat16(model: ModelProto, source: str) -> None:
    for node in model.graph.node:
        if TensorProto.BFLOAT16 in _cast_to(node):
            raise errors.ExportError(
                f"{source}: computes in bfloat16 (at {node.name or node.output[0]!r}), which ONNX "
                "Runtime cannot run on the CPU; make the model compute in float32, without autocast"
            )


def _allowed(model: ModelProto) -> float:
    """How much outputs may differ: two runtimes round differently, more so in 16 bits."""
    stored = {tensor.data_type for tensor in model.graph.initializer}
    made = {kind for node in model.graph.node for kind in _cast_to(node)}
    return _RELATIVE_IN_16_BITS if TensorProto.FLOAT16 in stored | made else _RELATIVE


def _cast_to(node: NodeProto) -> list[int]:
    return [a.i for a in node.attribute if a.name == "to" and node.op_type == "Cast"]


def _images(subject: workbench.Subject, settings: workbench.Settings) -> Array:
    if settings.data is None:
        return noise_images(subject, _NOISE_IMAGES)
    suite = preparing.read_images(subject, settings)
    return suite.batch(np.arange(min(_PROOF_IMAGES, len(suite))))


@stage("comparing outputs")
def _compare(
    model: framework.FrameworkModel, subject: workbench.Subject, images: Array, source: str
) -> tuple[float, float]:
    """The greatest relative difference of outputs, and the median one.

    Raises:
        ExportError: it is too great.
    """
    theirs = model.outputs(images)
    ours = subject.opened().run(images)
    if ours.shape != theirs.shape:
        raise errors.ExportError(
            f"{source}: the ONNX file gives outputs of shape {ours.shape} for {len(images)} images "
            f"and {model.framework} {theirs.shape}; nothing was kept"
        )
    if not np.isfinite(theirs).all():
        raise errors.ExportError(
            f"{source}: {model.framework} yields infinity or NaN for the images; check weights and "
            "preprocessing (scale, mean, std)"
        )
    scale = float(np.abs(theirs).max()) or 1.0
    each = np.abs(ours - theirs).reshape(len(images), -1).max(1) / scale
    relative = float(each.max())
    allowed = _allowed(subject.model)
    if not relative <= allowed:
        raise errors.ExportError(
            f"{source}: the ONNX file's outputs differ from {model.framework}'s by {relative:.2g} "
            f"of the greatest on {len(images)} images, and {allowed:g} is allowed; nothing was "
            "kept (does the model draw random numbers, look at the other images of a batch, or "
            "take whole pixel values, which --data must name then?)"
        )
    return relative, float(np.median(each))
