"""What an adapter gives repairkit: a trained model in its framework, and the sites of its layers.

Adapters are found by entry points of the group `repairkit.adapters`, each of which names an object
that implements `Adapter`. Listing them imports no framework; loading a model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from repairkit.core.filters import Filter

Images = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """A layer of filters, by the name that the framework's user knows.

    Attributes:
        name: such as `features.3.expand1x1` or `conv2d_7`.
        kind: the layer's class, such as `Conv2d`.
        n_channels: of its output.
    """

    name: str
    kind: str
    n_channels: int


@dataclass(frozen=True)
class LoadOptions:
    """How a source becomes a model.

    Attributes:
        weights: a state dict to load, where the source is a factory.
        input_shape: of one image, as the framework's model takes it; None if the model states it.
        trust: run code that the source names or holds: pickles, Lambda layers, TorchScript.
        opset: of the exported ONNX; the exporter's own choice if None.
    """

    weights: Path | None = None
    input_shape: tuple[int, ...] | None = None
    trust: bool = False
    opset: int | None = None


@dataclass(frozen=True)
class Source:
    """A framework's model by name; it is loaded when a function needs its gradients.

    Attributes:
        source: `module:factory` or a file; see `repairkit export --help`.
        weights: a state dict, if the source is a factory.
        framework: an adapter's name; if None, the adapter that takes the source.
        input_shape: of one image; that of the ONNX model if None.
    """

    source: str
    weights: Path | None = None
    framework: str | None = None
    input_shape: tuple[int, ...] | None = None


class FrameworkModel(Protocol):
    """A trained model in evaluation mode.

    Images have the shape (n_images, *input_shape) and are what the model takes, in the framework's
    own layout (NCHW in PyTorch, NHWC in Keras), which the exported ONNX keeps.
    """

    @property
    def framework(self) -> str:
        """`pytorch` or `keras`, as shown to people."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one image."""
        ...

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those whose channels may be filters, in the order of computation."""
        ...

    def outputs(self, images: Images) -> Images:
        """The model's first output, shape (n_images, ...)."""
        ...

    def freezing(
        self, layer: str, channels: NDArray[np.intp], constants: Images
    ) -> AbstractContextManager[None]:
        """While open, image i of a batch has channel `channels[i]` of a layer at `constants[i]`.

        Args:
            layer: a name of `layers`; its channel is set right after the layer (where
                normalisation follows it alone, after that).
            channels: shape (n_images,).
            constants: shape (n_images,).
        """
        ...

    def loss_gradients(
        self, images: Images, labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], Images]:
        """Each image's cross-entropy for a label, shape (n_images,), and its gradient.

        The output may be logits or probabilities; the adapter knows which.
        """
        ...

    def export(self, path: Path) -> None:
        """Write the model as ONNX with a free batch size.

        Raises:
            ExportError: a layer cannot be exported; the message names it and says what to do.
        """
        ...


@runtime_checkable
class Attributing(Protocol):
    """A framework model that can compute how much of its answers flows through each channel."""

    def conductance(
        self, images: Images, labels: NDArray[np.intp]
    ) -> dict[str, NDArray[np.float64]]:
        """Neuron conductance for each image's label, (n_images, n_channels) by layer's name.

        Layers for which it is not known are left out.
        """
        ...


@runtime_checkable
class Differentiating(Protocol):
    """A framework model that can compute, by gradients, what a channel is worth to an image."""

    def first_order(
        self,
        images: Images,
        labels: NDArray[np.intp],
        constants: Mapping[str, NDArray[np.float64]],
    ) -> dict[str, NDArray[np.float32]]:
        """The change of each image's log-likelihood if one channel alone were held at a constant.

        To first order, (n_images, n_channels) by layer's name. Layers for which it is not known are
        left out.

        Args:
            images: as the model takes them.
            labels: class numbers, (n_images,).
            constants: (n_channels,) by layer's name.
        """
        ...


@runtime_checkable
class Exciting(Protocol):
    """A framework model that can tell how an image must change for a channel to respond more."""

    def excitations(
        self, images: Images, layer: str, channels: NDArray[np.intp], *, at: str
    ) -> tuple[NDArray[np.float64], Images]:
        """The response of one channel to each image, (n_images,), and its gradient by the image.

        Channels are read where `FrameworkModel.freezing` sets them.

        Args:
            images: as the model takes them.
            layer: a name of `FrameworkModel.layers`.
            channels: one for each image, (n_images,).
            at: `centre`, position `size // 2` along each axis of the map; or `channel`, the mean
                over all positions.

        Raises:
            AdapterError: there is no such layer, or its gradient is not known.
        """
        ...


@runtime_checkable
class Readable(Protocol):
    """A framework model whose channels can be read, and frozen many at once."""

    def channel_values(self, images: Images) -> dict[str, Images]:
        """What the channels of each layer hold: (n_images, n_channels, ...) by layer's name.

        They are read where `FrameworkModel.freezing` sets them.
        """
        ...

    def freezing_many(
        self, layer: str, frozen: NDArray[np.bool_], constants: Images
    ) -> AbstractContextManager[None]:
        """While open, some channels of each image are at their constants.

        Args:
            layer: a name of `FrameworkModel.layers`.
            frozen: whether a channel of an image is, (n_images, n_channels).
            constants: (n_channels,).
        """
        ...


class Adapter(Protocol):
    """A framework that models come from."""

    @property
    def name(self) -> str:
        """Of the framework, as given to `--framework`."""
        ...

    @property
    def extra(self) -> str:
        """The extra of repairkit that installs the framework."""
        ...

    def takes(self, source: str) -> bool:
        """Whether a source looks like this framework's; imports nothing and opens no file."""
        ...

    def load(self, source: str, options: LoadOptions) -> FrameworkModel:
        """Load a trained model.

        Raises:
            AdapterError: the source, its weights or the framework itself is missing or unfit.
        """
        ...


@dataclass(frozen=True)
class FreshAttacks:
    """What a patched model is attacked with, besides the images that the repair was made against.

    Attributes:
        source: name and framework's model that the ONNX model came from, whose gradients a fresh
            attack follows.
        transfers: files of `repairkit attack` that other models' gradients made.
    """

    source: tuple[str, FrameworkModel] | None = None
    transfers: tuple[Path, ...] = ()


# Layers and the sites that they became

LAYER_MAP_SCHEMA = 1
CONFIDENCE = 0.95
"""Of the share of swaps that would be seen; see `GroupProof`."""


@dataclass(frozen=True)
class MappedLayer:
    """A framework's layer and the site whose filter c is its channel c.

    Attributes:
        layer: as the framework's user knows it.
        site: None where none was found, which `note` explains.
        unproven: channels of which it could not be proven that they are this site's filters.
        note: for people; empty where there is nothing to say.
        one_by_one: the channels that were proven by freezing each of them alone, if the others
            were proven in groups; None if no channel was frozen in a group.
    """

    layer: Layer
    site: str | None
    unproven: tuple[int, ...] = ()
    note: str = ""
    one_by_one: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Origin:
    """Where a filter comes from."""

    layer: str
    channel: int
    proven: bool

    def __str__(self) -> str:
        """`LAYER:CHANNEL`, and whether that is not proven."""
        return f"{self.layer}:{self.channel}" + ("" if self.proven else " (unproven)")


@dataclass(frozen=True, kw_only=True)
class GroupProof:
    """How the map of a large model was proven, where not every filter was frozen alone.

    Every proven filter holds the same numbers in both models, and no other filter does. Filters
    were frozen in groups, with equal outputs. Then pairs of filters were swapped on purpose, in
    one model alone, to measure how many swaps the outputs show.

    Attributes:
        n_groups: groups of filters that were frozen in both models.
        n_swaps: swaps that were made on purpose, of random proven filters.
        n_seen: those that changed the outputs.
        share_seen: with 95% confidence, at least this share of all swaps would.
        n_images: images on which the filters were read.
        seed: of the groups, the swaps and the filters that were frozen alone.
    """

    n_groups: int
    n_swaps: int
    n_seen: int
    share_seen: float
    n_images: int
    seed: int

    def to_json(self) -> dict[str, Any]:
        return {
            "groups": self.n_groups,
            "images": self.n_images,
            "swaps": self.n_swaps,
            "swaps_seen": self.n_seen,
            "confidence": CONFIDENCE,
            "share_seen_at_least": self.share_seen,
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, document: Any) -> GroupProof:
        """What `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(document, Mapping):
            raise ValueError("the proof in groups is no object")
        groups, images, swaps, seen, seed = (
            _count(document.get(key)) for key in ("groups", "images", "swaps", "swaps_seen", "seed")
        )
        share = document.get("share_seen_at_least")
        if type(share) is not float or not 0 <= share <= 1 or seen > swaps:
            raise ValueError("the swaps of the proof in groups are not as repairkit writes them")
        return cls(
            n_groups=groups,
            n_swaps=swaps,
            n_seen=seen,
            share_seen=share,
            n_images=images,
            seed=seed,
        )


@dataclass(frozen=True)
class LayerMap:
    """The layers of a model, in the order of computation, and the sites that they became.

    Attributes:
        framework: as the adapter calls it.
        input_shape: of one image, in the framework's layout.
        layers: each with its site.
        groups: the proof in groups; None if every proven filter was frozen alone.
    """

    framework: str
    input_shape: tuple[int, ...]
    layers: tuple[MappedLayer, ...]
    groups: GroupProof | None = None

    @property
    def n_proven(self) -> int:
        return sum(m.layer.n_channels - len(m.unproven) for m in self.layers if m.site is not None)

    @property
    def n_one_by_one(self) -> int:
        """How many of the proven filters were frozen alone."""
        if self.groups is None:
            return self.n_proven
        return sum(len(m.one_by_one or ()) for m in self.layers)

    @cached_property
    def _by_site(self) -> dict[str, MappedLayer]:
        return {mapped.site: mapped for mapped in self.layers if mapped.site is not None}

    @cached_property
    def _by_layer(self) -> dict[str, MappedLayer]:
        return {mapped.layer.name: mapped for mapped in self.layers}

    def origin(self, wanted: Filter) -> Origin | None:
        """Where a filter comes from; None where that is not known."""
        mapped = self._by_site.get(wanted.site)
        if mapped is None or wanted.channel >= mapped.layer.n_channels:
            return None
        return Origin(mapped.layer.name, wanted.channel, wanted.channel not in mapped.unproven)

    @property
    def by_site(self) -> dict[str, str]:
        """The name of the layer that became each site."""
        return {site: mapped.layer.name for site, mapped in self._by_site.items()}

    def layer_at(self, site: str) -> str:
        """The name of the layer that became a site; empty where it is not known."""
        mapped = self._by_site.get(site)
        return "" if mapped is None else mapped.layer.name

    def filter_named(self, wanted: Filter) -> Filter:
        """The filter that `LAYER:CHANNEL` names; `wanted` itself where no layer has the name."""
        mapped = self._by_layer.get(wanted.site)
        if mapped is None or mapped.site is None:
            return wanted
        return Filter(mapped.site, wanted.channel)

    def to_json(self) -> dict[str, Any]:
        layers = [
            {
                "layer": m.layer.name,
                "kind": m.layer.kind,
                "filters": m.layer.n_channels,
                "site": m.site,
                **({"unproven": list(m.unproven)} if m.unproven else {}),
                **({"note": m.note} if m.note else {}),
                **({} if m.one_by_one is None else {"one_by_one": list(m.one_by_one)}),
            }
            for m in self.layers
        ]
        groups = {} if self.groups is None else {"proof_in_groups": self.groups.to_json()}
        return {
            "schema": LAYER_MAP_SCHEMA,
            "framework": self.framework,
            "input_shape": list(self.input_shape),
            **groups,
            "layers": layers,
        }

    @classmethod
    def from_json(cls, document: Any) -> LayerMap:
        """What `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        if not isinstance(document, Mapping) or document.get("schema") != LAYER_MAP_SCHEMA:
            raise ValueError(f"it is no map of layers of schema {LAYER_MAP_SCHEMA}")
        shape = tuple(_count(size) for size in _list(document.get("input_shape")))
        layers = tuple(_mapped(entry) for entry in _list(document.get("layers")))
        sites = [m.site for m in layers if m.site is not None]
        names = [m.layer.name for m in layers]
        if len(set(sites)) != len(sites) or len(set(names)) != len(names):
            raise ValueError("it names a layer or a site twice")
        groups = document.get("proof_in_groups")
        proof = None if groups is None else GroupProof.from_json(groups)
        return cls(_text(document.get("framework")), shape, layers, proof)


def _mapped(entry: Any) -> MappedLayer:
    if not isinstance(entry, Mapping):
        raise ValueError("a layer is no object")
    layer = Layer(_text(entry.get("layer")), _text(entry.get("kind")), _count(entry.get("filters")))
    site = None if entry.get("site") is None else _text(entry.get("site"))
    unproven = tuple(_count(channel) for channel in _list(entry.get("unproven", [])))
    listed = entry.get("one_by_one")
    alone = None if listed is None else tuple(_count(channel) for channel in _list(listed))
    if any(channel >= layer.n_channels for channel in (*unproven, *(alone or ()))):
        raise ValueError(f"layer {layer.name!r} has no such channel")
    return MappedLayer(layer, site, unproven, _text(entry.get("note", "")), alone)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of things")
    return value


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is no text")
    return value
