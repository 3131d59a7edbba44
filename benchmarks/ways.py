"""Ways to evaluate coalitions of one model: plain, by hand in PyTorch, by masks, by the engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.patch import FrozenFilter, Patch
from repairkit.core.suite import Annotations, Suite
from repairkit.engine.evaluator import Evaluator, MaskEvaluator
from repairkit.engine.executor import make_executor
from repairkit.engine.opening import Candidates, open_evaluator
from repairkit.engine.runner import Runner
from repairkit.graph.bake import bake
from repairkit.graph.instrument import instrument
from repairkit.graph.sites import Survey, survey

NAMES = ("squeezenet1.1", "resnet18", "mobilenet_v2", "inception_v3", "mlperf_resnet8")
ZOO = Path(__file__).parents[2] / "shared" / "zoo" / "models"


@dataclass(frozen=True)
class Images:
    """Images in memory."""

    array: NDArray[Any]

    def __len__(self) -> int:
        return len(self.array)

    def batch(self, indices: NDArray[np.intp]) -> NDArray[Any]:
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
    """Every way to evaluate coalitions of one subject."""

    def __init__(self, subject: Subject, workers: tuple[int, ...]) -> None:
        self.subject = subject
        output = subject.model.graph.output[0].name
        self.found: Survey = survey(subject.model, output=output)
        self.roster = Roster(self.found.sites)
        rng = np.random.default_rng(1)
        self.means: FilterMeans = {
            site.name: np.abs(rng.standard_normal(site.n_channels)).astype(np.float32)
            for site in self.found.sites
        }
        self.suite = Suite.whole(
            "bench", Images(subject.images), Annotations(np.zeros(len(subject.images), np.int64))
        )
        masked = instrument(subject.model, self.found.sites, self.means)
        runner = Runner(masked, subject.image, None, outputs=(output,))
        candidates = Candidates(
            self.found, self.roster, self.means, image=subject.image, output=output
        )
        self.plain = {n: open_plain(subject.model, n) for n in workers}
        self.engine: dict[int, Evaluator] = {}
        self.masks: dict[int, Evaluator] = {}
        for n in workers:
            executor = make_executor(n)
            self.engine[n] = open_evaluator(candidates, runner, self.suite, executor=executor)
            self.masks[n] = MaskEvaluator(runner, self.roster, self.suite, executor=executor)
        self.path = self.engine[workers[0]].path

    def run_plain(self, n: int) -> None:
        """The untouched model on so many threads."""
        self.plain[n].run(None, {self.subject.image: self.subject.images})

    def runopen_plain(self, row: NDArray[np.bool_]) -> None:
        """A session of the baked model, for one coalition."""
        absent = [self.roster.filters[p] for p in np.flatnonzero(~row).tolist()]
        frozen = [FrozenFilter(f, float(self.means[f.site][f.channel])) for f in absent]
        baked = bake(self.subject.model, Patch(tuple(frozen)), found=self.found).model
        open_plain(baked, 1).run(None, {self.subject.image: self.subject.images})

    def run_eager(self, row: NDArray[np.bool_], n: int) -> None:
        """PyTorch with a hook on every convolution that overwrites absent channels."""
        import torch

        torch.set_num_threads(n)
        layers = [m for m in self.subject.network.modules() if isinstance(m, torch.nn.Conv2d)]
        masks = [torch.from_numpy(row[s]) for s in self.roster.slices.values()]
        levels = [torch.from_numpy(level) for level in self.means.values()]

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
            self.subject.network(torch.from_numpy(self.subject.images))
        for handle in handles:
            handle.remove()


def open_plain(model: ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """A session as a user would open it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
