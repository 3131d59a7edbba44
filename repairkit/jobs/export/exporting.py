"""Load a framework's model by its adapter, write it as ONNX, prove that, and map its layers.

Adapters are found by entry points, and chosen by name or by the source that they take.
"""

import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from repairkit.core import errors, results
from repairkit.core.framework import Adapter, FrameworkModel, LoadOptions
from repairkit.core.process.stages import stage
from repairkit.core.suite import Array
from repairkit.formats.documents import outputs, to_json
from repairkit.graph.kinds.sites import find_sites
from repairkit.graph.metadata import write_layer_map
from repairkit.graph.stored.model_files import add_model, read_model
from repairkit.jobs.export.mapping import Pairing, prove_layers, sites_without_layer
from repairkit.jobs.output.destination import check_export_place
from repairkit.jobs.setup.preparing import read_images
from repairkit.jobs.setup.subject import noise_images, read_subject
from repairkit.jobs.setup.workbench import Settings, Subject

_PROOF_IMAGES = 64
_NOISE_IMAGES = 8
_RELATIVE = 1e-4
_RELATIVE_IN_16_BITS = 5e-3
KIND = "repairkit layers"
GROUP = "repairkit.adapters"
_NEEDED = ("name", "extra", "takes", "load")
logger = logging.getLogger(__name__)


@stage("loading the model")
def load_framework_model(
    source: str,
    options: LoadOptions | None = None,
    *,
    framework: str | None = None,
    adapters: Sequence[Adapter] | None = None,
) -> FrameworkModel:
    """A trained model from a framework.

    Args:
        source: such as `module:factory` or the path of a saved model.
        options: how the source becomes a model.
        framework: an adapter's name; the adapter that takes the source if None.
        adapters: to choose from; all that are installed if None.

    Raises:
        SettingsError: there is no adapter of that name.
        AdapterError: none takes the source, or the one that does cannot load it.
    """
    return choose_adapter(source, framework, adapters).load(source, options or LoadOptions())


def choose_adapter(
    source: str, framework: str | None = None, adapters: Sequence[Adapter] | None = None
) -> Adapter:
    """The adapter of that name, or the only one that takes the source; see above."""
    known = find_adapters() if adapters is None else tuple(adapters)
    names = ", ".join(a.name for a in known) or "none"
    if framework is not None:
        named = [a for a in known if a.name == framework]
        if not named:
            raise errors.SettingsError(f"there is no framework {framework!r}; known are {names}")
        return named[0]
    takers = [a for a in known if a.takes(source)]
    if len(takers) == 1:
        return takers[0]
    if takers:
        several = " and ".join(a.name for a in takers)
        raise errors.SettingsError(
            f"{source}: both {several} may take it; say which with --framework"
        )
    missing = "" if ":" in source or Path(source).exists() else ", and there is no such file"
    raise errors.AdapterError(
        f"{source}: no adapter takes it{missing}; give module:factory or a saved model, or say "
        f"with --framework whose it is (known are {names})"
    )


def find_adapters(points: Iterable[EntryPoint] | None = None) -> tuple[Adapter, ...]:
    """Every installed adapter, in the order of names; no framework is imported.

    One that cannot be imported is left out with a warning: the others go on.
    """
    adapters_by_name: dict[str, Adapter] = {}
    given = entry_points(group=GROUP) if points is None else points
    for point in sorted(set(given), key=lambda p: (p.name, p.value)):
        try:
            adapter = point.load()
        except Exception as error:  # noqa: BLE001 - whatever a third party's module raises
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("the adapter %s (%s) is left out: %s", point.name, point.value, reason)
            continue
        lacking = [name for name in _NEEDED if not hasattr(adapter, name)]
        if lacking:
            logger.warning(
                "the adapter %s (%s) is left out: it has no %s",
                point.name,
                point.value,
                ", ".join(lacking),
            )
        elif adapter.name in adapters_by_name and adapters_by_name[adapter.name] is not adapter:
            logger.warning(
                "the adapter %s (%s) is left out: another has that name", point.name, point.value
            )
        else:
            adapters_by_name[adapter.name] = adapter
    return tuple(adapters_by_name.values())


def export(
    model: FrameworkModel,
    out: Path,
    *,
    settings: Settings,
    source: str = "model",
    on_progress: Callable[[int, int], None] | None = None,
) -> results.Exported:
    """Write a model with its map of layers; nothing is kept of one that computes something else.

    Args:
        model: from an adapter.
        out: the ONNX file; the map goes beside it as `NAME.layers.json`.
        settings: where they name data, outputs are compared on its first images, else on noise.
        source: what messages call the model.
        on_progress: told how many filters are mapped, and of how many.

    Raises:
        ExportError: a layer cannot be exported, or the ONNX file computes something else.
        RepairkitError: anything else that the user can mend.
    """
    map_file = layers_file(out)
    check_export_place(out, map_file, settings.data, KIND)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        draft = Path(folder) / out.name
        with stage("exporting"):
            model.export(draft)
        subject = read_subject(draft, output=settings.output, layout=settings.preprocessing.layout)
        _refuse_bfloat16(subject.model, source)
        given = settings.data is not None
        images = _images(subject, settings)
        relative, noise = _compare(model, subject, images, source)
        layers = prove_layers(Pairing(model, subject, images, noise), on_progress=on_progress)
        written = ModelProto()
        written.CopyFrom(subject.model)
        write_layer_map(written, layers)
        sites = find_sites(subject.model)
        check_export_place(out, map_file, settings.data, KIND)
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


def layers_file(out: Path) -> Path:
    """Where the map of an exported model lies."""
    return out.with_name(f"{out.stem}.layers.json")


def _refuse_bfloat16(model: ModelProto, source: str) -> None:
    for node in model.graph.node:
        if TensorProto.BFLOAT16 in _cast_to(node):
            raise errors.ExportError(
                f"{source}: computes in bfloat16 (at {node.name or node.output[0]!r}), which ONNX "
                "Runtime cannot run on the CPU; make the model compute in float32, without autocast"
            )


def _allowed(model: ModelProto) -> float:
    """How far outputs may differ: two runtimes round differently, more so in 16 bits."""
    stored = {tensor.data_type for tensor in model.graph.initializer}
    made = {kind for node in model.graph.node for kind in _cast_to(node)}
    return _RELATIVE_IN_16_BITS if TensorProto.FLOAT16 in stored | made else _RELATIVE


def _cast_to(node: NodeProto) -> list[int]:
    return [a.i for a in node.attribute if a.name == "to" and node.op_type == "Cast"]


def _images(subject: Subject, settings: Settings) -> Array:
    if settings.data is None:
        return noise_images(subject, _NOISE_IMAGES)
    suite = read_images(subject, settings)
    return suite.batch(np.arange(min(_PROOF_IMAGES, len(suite))))


@stage("comparing outputs")
def _compare(
    model: FrameworkModel, subject: Subject, images: Array, source: str
) -> tuple[float, float]:
    """The greatest relative difference of outputs, and the usual one.

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
