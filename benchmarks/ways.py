"""Ways to evaluate coalitions of one model: plain, by hand in PyTorch, by masks, by the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.filters import FilterMeans, FrozenFilter, Patch, Roster
from repairkit.core.suite import Annotations, Array, Suite
from repairkit.engine.cones.candidates import Candidates
from repairkit.engine.evaluator import Evaluator, make_executor
from repairkit.engine.masks import AffineMasks, MaskEvaluator, with_scattered
from repairkit.engine.ort import open_session
from repairkit.engine.runner import Runner
from repairkit.engine.working import open_evaluator, open_stacked
from repairkit.graph.baking import bake
from repairkit.graph.coalitions.masking import with_affine_masks
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.kinds.sites import instrument, survey

NAMES = ("squeezenet1.1", "resnet18", "mobilenet_v2", "inception_v3", "mlperf_resnet8")
ZOO = Path(__file__).parents[2] / "shared" / "zoo" / "models"


@dataclass(frozen=True)
class Images:
    """Images in memory."""

    array: Array

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: NDArray[np.intp]) -> Array:
        return self.array[indices]


@dataclass(frozen=True)
class Subject:
    """A model and a batch for it; `network` is the same in PyTorch, where there is one."""

    name: str
    model: ModelProto
    images: NDArray[np.float32]
    network: Any = None

    @property
    def image(self) -> str:
        stored = {tensor.name for tensor in self.model.graph.initializer}
        return next(i.name for i in self.model.graph.input if i.name not in stored)


def make_subject(name: str, size: int | None, batch: int | None) -> Subject:
    """A network by name, with images of noise; its usual size and batch where None."""
    rng = np.random.default_rng(0)
    if name == "mlperf_resnet8":
        model = onnx.load(ZOO / f"{name}.onnx")
        pixels = rng.uniform(0, 255, (batch or 128, 32, 32, 3)).astype(np.float32)
        return Subject(name, model, pixels)
    import networks  # and with it PyTorch, which other ways do without

    _, side, n_images = networks.NETWORKS[name]
    side, n_images = size or side, batch or n_images
    network = networks.build(name)
    images = rng.standard_normal((n_images, 3, side, side)).astype(np.float32)
    return Subject(
        f"{name} {n_images}x{side}x{side}", networks.to_onnx(network, side), images, network
    )


class Ways:
    """Every way to evaluate coalitions of one subject, each opened when it is first asked for.

    Args:
        subject: the model and a batch.
        device: `cpu` or `cuda`.
        stacked: take the steps of a card, wherever they run.
    """

    def __init__(self, subject: Subject, *, device: str = "cpu", stacked: bool = False) -> None:
        self.subject, self.device = subject, device
        self.stacked = stacked or device == "cuda"
        self.output = subject.model.graph.output[0].name
        self.found: Survey = survey(subject.model, output=self.output)
        self.roster = Roster(self.found.sites)
        rng = np.random.default_rng(1)
        self.means: FilterMeans = {
            site.name: np.abs(rng.standard_normal(site.n_channels)).astype(np.float32)
            for site in self.found.sites
        }
        self.suite = Suite.whole(
            "bench",
            Images(subject.images),
            Annotations(labels=np.zeros(len(subject.images), np.int64)),
        )
        self.candidates = Candidates(
            survey=self.found,
            roster=self.roster,
            levels=self.means,
            image=subject.image,
            output=self.output,
        )

    @cached_property
    def runner(self) -> Runner:
        """Of the instrumented model."""
        masked = instrument(self.subject.model, self.found.sites, self.means)
        return Runner(masked, self.subject.image, None, outputs=(self.output,), device=self.device)

    @cache  # noqa: B019 (lives as long as the benchmark)
    def plain(self, n: int) -> Callable[[], object]:
        """A pass of the untouched model on so many threads, as fast as the runtime has it.

        On a card the images are there already, as they are for the engine's cones.
        """
        session = open_plain(self.subject.model, n, self.device)
        if not self.stacked:
            return lambda: session.run(None, {self.subject.image: self.subject.images})
        images = np.ascontiguousarray(self.subject.images)
        held = onnxruntime.OrtValue.ortvalue_from_numpy(images, self.device, 0)
        binding = session.io_binding()
        binding.bind_ortvalue_input(self.subject.image, held)
        binding.bind_output(self.output, "cpu")
        return lambda: session.run_with_iobinding(binding)

    @cache  # noqa: B019
    def masks(self, n: int) -> MaskEvaluator:
        """Mask nodes, run by run."""
        return MaskEvaluator(self.runner, self.roster, self.suite, executor=make_executor(n))

    @cache  # noqa: B019
    def engine(self, n: int, cache_memory: int | None = None) -> Evaluator:
        """The engine as the product wires it."""
        if self.stacked:
            opened = open_stacked(self.candidates, self.masks(n), memory=cache_memory)
        else:
            opened = open_evaluator(self.candidates, self.masks(n), cache_memory=cache_memory)
        return with_scattered(opened, self.masks(n), mixer=self._mixer(n))

    def _mixer(self, n: int) -> AffineMasks | None:
        """What runs mixed rows on the CPU, where the model can be written that way."""
        if self.stacked:
            return None
        masked = instrument(self.subject.model, self.found.sites, self.means)
        model = with_affine_masks(masked, self.found.sites)
        if model is None:
            return None
        runner = Runner(model, self.subject.image, None, outputs=(self.output,), device="cpu")
        return AffineMasks(runner, self.masks(n), self.means)

    def run_session(self, row: NDArray[np.bool_]) -> None:
        """A new session of the baked model, for one coalition."""
        absent = [self.roster.filters[p] for p in np.flatnonzero(~row).tolist()]
        frozen = [FrozenFilter(f, float(self.means[f.site][f.channel])) for f in absent]
        baked = bake(self.found, Patch(tuple(frozen))).model
        open_plain(baked, 1, "cpu").run(None, {self.subject.image: self.subject.images})

    @property
    def has_eager(self) -> bool:
        """Whether PyTorch has the network, and the device."""
        if self.subject.network is None:
            return False
        import torch

        return self.device == "cpu" or torch.cuda.is_available()

    def run_eager(self, row: NDArray[np.bool_], n: int) -> None:
        """PyTorch with a hook on every convolution that overwrites absent channels."""
        import torch

        torch.set_num_threads(n)
        network, images = self._in_torch
        layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
        masks = [torch.from_numpy(row[s]).to(self.device) for s in self.roster.slices.values()]
        levels = [torch.from_numpy(level).to(self.device) for level in self.means.values()]

        def hook(mask: Any, level: Any) -> Callable[[Any, Any, Any], Any]:
            shape = (1, -1, 1, 1)
            return lambda module, inputs, out: torch.where(  # noqa: ARG005 (PyTorch's)
                mask.reshape(shape), out, level.reshape(shape)
            )

        handles = [
            layer.register_forward_hook(hook(mask, level))
            for layer, mask, level in zip(layers, masks, levels, strict=False)
        ]
        with torch.inference_mode():
            network(images).cpu()  # which waits for a card to finish
        for handle in handles:
            handle.remove()

    @cached_property
    def _in_torch(self) -> tuple[Any, Any]:
        """The network and the images, where they are run."""
        import torch

        if self.device == "cuda":  # 32 bits, as ONNX Runtime is told
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        network = self.subject.network.to(self.device)
        return network, torch.from_numpy(self.subject.images).to(self.device)


def open_plain(model: ModelProto, threads: int, device: str) -> onnxruntime.InferenceSession:
    """A session as a user would open it."""
    if device == "cuda":
        return open_session(model, device="cuda")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
