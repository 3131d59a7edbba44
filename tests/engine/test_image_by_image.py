"""Values equal those of an oracle: plain ONNX Runtime, the graph as written, one image at a time.

The oracle shares no code with the engine but the survey of sites. It inserts the masks by itself,
measures means by itself, and never gives a session two images.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import repairkit
from repairkit.core.errors import ModelError
from repairkit.core.filters import Site
from repairkit.core.suite import Array
from repairkit.data.parts import PartPlan
from repairkit.engine.batching import settle_batching
from repairkit.engine.evaluator import keep_all
from repairkit.engine.masks import AffineMasks, MaskEvaluator, with_scattered
from repairkit.engine.runner import Runner
from repairkit.engine.working import open_evaluator
from repairkit.graph.baking import representable
from repairkit.graph.coalitions.masking import with_affine_masks
from repairkit.graph.kinds.sites import instrument, survey
from repairkit.graph.mixing import find_mixers
from repairkit.jobs.setup.workbench import Settings
from tests.engine.games import set_up
from tests.models import model_of
from tests.running import opened

Array = Array
N_IMAGES = 10
OF_THE_LARGEST = 1e-4  # of the largest value: what 32 bits leave of differences of losses
SIDE = 6


def pictures(n: int, seed: int = 0) -> Array:
    """Noise of very different contrast, so that a batch's range says nothing of an image's."""
    rng = np.random.default_rng(seed)
    contrast = np.exp(rng.uniform(-2, 1.5, (n, 1, 1, 1)))
    return (contrast * rng.standard_normal((n, 2, SIDE, SIDE))).astype(np.float32)


class Network:
    """Nodes one after another, with weights of their own."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.n_made = 0

    def op(self, kind: str, *reads: str, n_out: int = 1, **attributes: Any) -> str:
        self.n_made += 1
        made = [f"t{self.n_made}_{slot}" for slot in range(n_out)]
        name = f"{kind.lower()}{self.n_made}"
        self.nodes.append(helper.make_node(kind, list(reads), made, name, **attributes))
        return made[0]

    def store(self, array: Any, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array, dtype)
        return name

    def conv(self, source: str, n_in: int, n_out: int) -> str:
        kernel = self.rng.standard_normal((n_out, n_in, 3, 3)) / np.sqrt(9 * n_in)
        bias = 0.3 * self.rng.standard_normal(n_out)
        return self.op("Conv", source, self.store(kernel), self.store(bias), pads=[1] * 4)

    def norm(self, source: str, n: int, *, training: bool) -> str:
        facts = [self.rng.uniform(0.5, 1.5, n), *self.rng.standard_normal((2, n)), np.ones(n)]
        extra = {"training_mode": 1} if training else {}
        n_out = 3 if training else 1
        stored = [self.store(f) for f in facts]
        return self.op("BatchNormalization", source, *stored, n_out=n_out, **extra)

    def codes(self, source: str, scale: float = 0.03) -> str:
        """Through 8-bit codes and back."""
        facts = self.store(scale), self.store(120, np.uint8)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", source, *facts), *facts)

    def model(self, features: str, n: int) -> ModelProto:
        flat = self.op("Flatten", self.op("GlobalAveragePool", features))
        head = self.store(2 * self.rng.standard_normal((n, 3)))
        self.nodes.append(helper.make_node("Gemm", [flat, head], ["logits"], "fc"))
        return model_of(self.nodes, self.weights)


Block = Callable[[Network, str], str]
"""From four channels to four."""


def plain(net: Network, x: str) -> str:
    return net.op("Relu", net.conv(x, 4, 4))


def residual(net: Network, x: str) -> str:
    return net.op("Add", x, net.conv(net.op("Sigmoid", x), 4, 4))


def normed(net: Network, x: str) -> str:
    return net.op("Relu", net.norm(net.conv(x, 4, 4), 4, training=False))


def trained(net: Network, x: str) -> str:
    """BatchNormalization left in training mode."""
    return net.op("Relu", net.norm(net.conv(x, 4, 4), 4, training=True))


def coded(net: Network, x: str) -> str:
    return net.op("Relu", net.conv(net.codes(x), 4, 4))


def rounded(net: Network, x: str) -> str:
    step = net.store(0.02)
    return net.conv(net.op("Mul", net.op("Round", net.op("Div", x, step)), step), 4, 4)


def centred(net: Network, x: str) -> str:
    return net.conv(net.op("Add", x, net.op("ReduceMean", x, axes=[0])), 4, 4)


def counted(net: Network, x: str) -> str:
    """Divided by the number of images, which no rule about axes sees."""
    first = net.op("Gather", net.op("Shape", x), net.store(0, np.int64))
    n_images = net.op("Cast", first, to=TensorProto.FLOAT)
    return net.op("Relu", net.conv(net.op("Div", x, n_images), 4, 4))


def shared(net: Network, x: str) -> str:
    """A softmax over the images."""
    return net.conv(net.op("Mul", x, net.op("Softmax", x, axis=0)), 4, 4)


def scaled(net: Network, x: str) -> str:
    """By the largest number of the whole batch."""
    top = net.op("ReduceMax", net.op("Abs", x), keepdims=0)
    return net.op("Relu", net.conv(net.op("Div", x, top), 4, 4))


def cumulated(net: Network, x: str) -> str:
    return net.conv(net.op("CumSum", x, net.store(0, np.int64)), 4, 4)


def folded(net: Network, x: str) -> str:
    """All images centred as if they were one: a shape that is hard-wired, and can be freed."""
    one = net.op("Reshape", x, net.store([1, -1, SIDE, SIDE], np.int64))
    mean = net.op("ReduceMean", one, axes=[1, 2, 3])
    back = net.op("Reshape", net.op("Sub", one, mean), net.store([-1, 4, SIDE, SIDE], np.int64))
    return net.op("Relu", net.conv(back, 4, 4))


def recurrent(net: Network, x: str) -> str:
    """Images taken for steps in time."""
    rows = net.op("Reshape", x, net.store([0, 4, SIDE * SIDE], np.int64))
    w = net.store(0.3 * net.rng.standard_normal((1, 16, 36)))
    r = net.store(0.3 * net.rng.standard_normal((1, 16, 4)))
    made = net.op("LSTM", rows, w, r, n_out=1, hidden_size=4)
    shares = net.op("Reshape", made, net.store([-1, 4, 4, 1], np.int64))
    return net.op("Add", x, net.op("ReduceMean", shares, axes=[2]))


BLOCKS: dict[str, Block] = {
    f.__name__: f
    for f in (
        plain,
        residual,
        normed,
        trained,
        coded,
        rounded,
        centred,
        counted,
        shared,
        scaled,
        cumulated,
        folded,
        recurrent,
    )
}
MIXING = {"trained", "centred", "counted", "shared", "scaled", "cumulated", "recurrent"}


def network(*blocks: Block, seed: int = 0) -> ModelProto:
    net = Network(seed)
    x = net.op("Relu", net.conv("image", 2, 4))
    for block in blocks:
        x = block(net, x)
    return net.model(plain(net, x), 4)


class Pictures(CalibrationDataReader):  # type: ignore[misc]  # the runtime has no types
    def __init__(self) -> None:
        self.left = [{"image": pictures(1, seed)} for seed in range(8)]

    def get_next(self) -> dict[str, Array] | None:
        return self.left.pop() if self.left else None


def dynamic(model: ModelProto, folder: Path) -> ModelProto:
    onnx.save(model, folder / "float.onnx")
    quantize_dynamic(
        folder / "float.onnx",
        folder / "made.onnx",
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        weight_type=QuantType.QUInt8,
    )
    return onnx.load(folder / "made.onnx")


def static(form: Any) -> Callable[[ModelProto, Path], ModelProto]:
    def quantise(model: ModelProto, folder: Path) -> ModelProto:
        onnx.save(model, folder / "float.onnx")
        quantize_static(folder / "float.onnx", folder / "made.onnx", Pictures(), quant_format=form)
        return onnx.load(folder / "made.onnx")

    return quantise


def half(model: ModelProto, folder: Path) -> ModelProto:  # noqa: ARG001 (as the others)
    """All in 16 bits, with casts around."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = "small" if name == "image" else name
        for k, name in enumerate(node.output):
            node.output[k] = "large" if name == "logits" else name
    first = helper.make_node("Cast", ["image"], ["small"], "down", to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", ["large"], ["logits"], "up", to=TensorProto.FLOAT)
    nodes = [first, *model.graph.node, last]
    kept = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


MADE: dict[str, Callable[[ModelProto, Path], ModelProto]] = {
    "dynamic": dynamic,
    "static QDQ": static(QuantFormat.QDQ),
    "static QOperator": static(QuantFormat.QOperator),
    "half": half,
}


@dataclass
class Oracle:
    """A model with masks of the oracle's own, run as it is written on one image at a time."""

    model: ModelProto
    sites: tuple[Site, ...]

    def session(self, model: ModelProto) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1  # how a convolution is cut up follows from the threads
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def means(self, images: Array) -> dict[str, Array]:
        tapped = ModelProto()
        tapped.CopyFrom(self.model)
        known = {o.name for o in tapped.graph.output}
        for site in self.sites:
            if site.tensor not in known:
                tapped.graph.output.append(helper.make_empty_tensor_value_info(site.tensor))
        session, found = self.session(tapped), {}
        answers = [
            session.run([site.tensor for site in self.sites], {"image": images[i : i + 1]})
            for i in range(len(images))
        ]
        for k, site in enumerate(self.sites):
            numbers = np.concatenate([answer[k] for answer in answers]).astype(np.float64)
            if site.scale is not None:
                numbers = (numbers - site.zero) * site.scale
            found[site.name] = numbers.mean(axis=(0, 2, 3)).astype(np.float32)
        return found

    def masked(self, means: dict[str, Array]) -> Any:
        """A session of the model with a `Where` behind every site."""
        model = ModelProto()
        model.CopyFrom(self.model)
        for site in self.sites:
            level = means[site.name].astype(np.float64)
            dtype = np.dtype(site.dtype)
            if site.scale is not None:
                limits = np.iinfo(dtype)
                codes = np.rint(level / site.scale) + site.zero
                level = np.clip(codes, limits.min, limits.max)
            shape = (1, site.n_channels, 1, 1)
            name = f"oracle {site.name}"
            level = level.astype(dtype).reshape(shape)
            model.graph.initializer.append(numpy_helper.from_array(level, f"{name} level"))
            model.graph.input.append(
                helper.make_tensor_value_info(f"{name} mask", TensorProto.BOOL, shape)
            )
            nodes = []
            for node in model.graph.node:
                copied = NodeProto.FromString(node.SerializeToString())
                for k, made in enumerate(copied.output):
                    copied.output[k] = f"{name} raw" if made == site.tensor else made
                nodes.append(copied)
                if site.tensor in node.output:
                    reads = [f"{name} mask", f"{name} raw", f"{name} level"]
                    nodes.append(helper.make_node("Where", reads, [site.tensor], name))
            del model.graph.node[:]
            model.graph.node.extend(nodes)
        return self.session(model)

    def outputs(self, session: Any, rows: Array, images: Array) -> Array:
        """Shape (n_rows, n_images, n_classes)."""
        found = []
        for row in rows:
            masks, first = {}, 0
            for site in self.sites:
                own = row[first : first + site.n_channels]
                masks[f"oracle {site.name} mask"] = own.reshape(1, -1, 1, 1)
                first += site.n_channels
            feeds = [{"image": images[i : i + 1], **masks} for i in range(len(images))]
            found.append(np.concatenate([session.run(["logits"], feed)[0] for feed in feeds]))
        return np.stack(found).astype(np.float64)


def left_out(n: int) -> Array:
    """All filters, then all but one each."""
    rows = np.ones((n + 1, n), bool)
    rows[np.arange(1, n + 1), np.arange(n)] = False
    return rows


def losses(outputs: Array, labels: Array) -> Array:
    top = outputs.max(axis=-1, keepdims=True)
    logs = outputs - top - np.log(np.exp(outputs - top).sum(axis=-1, keepdims=True))
    found: Array = -logs[:, np.arange(len(labels)), labels].mean(axis=1)
    return found


FAMILY = {
    **{name: (block, None) for name, block in BLOCKS.items()},
    **{name: (plain, make) for name, make in MADE.items()},
    "dynamic residual": (residual, dynamic),
    "static beside a mean": (centred, static(QuantFormat.QDQ)),
}


@pytest.mark.parametrize("name", FAMILY)
def test_leave_one_out_values_are_those_of_single_images(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    block, make = FAMILY[name]
    model = network(block) if make is None else make(network(block), tmp_path)
    images, labels = pictures(N_IMAGES, 5), np.arange(N_IMAGES) % 3
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=images, y=labels)
    everyone = PartPlan(calibration="all", selection="all", test="all")
    scored = repairkit.score(
        tmp_path / "model.onnx",
        tmp_path / "data.npz",
        metric="loss",
        method="leave-one-out",
        settings=Settings(parts=everyone, device="cpu", workers=1),
    )
    found = survey(model, output="logits")
    oracle = Oracle(model, found.sites)
    means = representable(found, oracle.means(images))
    rows = left_out(len(scored.scores.values))
    outputs = oracle.outputs(oracle.masked(means), rows, images)
    worth = losses(outputs, labels)
    expected = worth[0] - worth[1:]
    assert np.abs(expected).max() > 1e-3
    off = np.abs(scored.scores.values[:, 0] - expected).max() / np.abs(expected).max()
    assert off <= OF_THE_LARGEST, (scored.document["engine"], scored.document["agreement"])
    alone = name in MIXING or name.startswith("dynamic") or "beside" in name
    assert scored.document["batching"].startswith("1 at a time: ") == alone
    if alone:
        (note,) = [note for note in scored.document["notes"] if "ms per image" in note]
        assert "node '" in note


@given(
    blocks=st.lists(st.sampled_from(sorted(BLOCKS)), max_size=2),
    seed=st.integers(0, 99),
    n_images=st.integers(1, 3),
)
@example(blocks=["plain", "coded"], seed=0, n_images=2)
@example(blocks=["rounded", "normed"], seed=0, n_images=2)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_network_gives_a_row_what_it_gives_each_image_alone(
    blocks: list[str], seed: int, n_images: int
) -> None:
    """Whole suites, batches and mixed rows: an answer hangs on its row and its image alone."""
    model = network(*(BLOCKS[name] for name in blocks), seed=seed)
    images, rng = pictures(9, seed + 1), np.random.default_rng(seed)
    setup = set_up(model, images)
    assert (setup.batching.opened.step == 1) == bool(MIXING & set(blocks))
    evaluator = open_evaluator(setup.candidates, setup.reference())
    masks, mixer = setup.reference(), None
    affine = with_affine_masks(
        instrument(setup.batching.opened.model, setup.roster.sites, setup.means), setup.roster.sites
    )
    if affine is not None and setup.batching.opened.step is None:
        runner = Runner(affine, "image", None, outputs=setup.runner.outputs)
        mixer = AffineMasks(runner, masks, setup.means)
    bits = setup.candidates.rounding is not None
    evaluator = with_scattered(evaluator, masks, mixer=mixer, bits=bits)
    rows = rng.random((6, len(setup.roster))) < rng.choice([0.5, 0.9], (6, 1))
    oracle = Oracle(model, setup.roster.sites)
    expected = oracle.outputs(oracle.masked(dict(setup.means)), rows, images)
    assume(np.isfinite(expected).all())  # two layers that scale up may overflow
    allowed = 0.0 if bits else 2e-5 * np.abs(expected).max()
    everyone = evaluator.answer(rows, None, keep_all)
    assert np.abs(everyone - expected).max() <= allowed, evaluator.path
    drawn = rng.integers(0, len(images), (len(rows), n_images))
    some = evaluator.answer(rows, drawn, keep_all)
    wanted = np.take_along_axis(expected, drawn[:, :, None], axis=1)
    assert np.abs(some - wanted).max() <= allowed, evaluator.path
    one = evaluator.answer(rows[2:3], drawn[2:3], keep_all)
    np.testing.assert_array_equal(one[0], some[2])


def test_what_optimising_changes_is_no_part_of_any_answer() -> None:
    """Blocked convolutions add up in another order, and rounding makes whole steps of that.

    An instrumented model that was optimised alike would not tell.
    """
    net = Network(3)
    x = net.op("Relu", net.conv("image", 2, 32))
    step = net.store(4e-3)
    for _ in range(3):
        x = net.op("Mul", net.op("Round", net.op("Div", x, step)), step)
        x = net.op("Relu", net.conv(x, 32, 32))
    model = net.model(x, 32)
    setup = set_up(model, pictures(8))
    rows = left_out(len(setup.roster))[:40]
    oracle = Oracle(model, setup.roster.sites)
    expected = oracle.outputs(oracle.masked(dict(setup.means)), rows, pictures(8))

    def optimised() -> Runner:
        masked = instrument(model, setup.roster.sites, setup.means)
        return Runner(masked, "image", None, outputs=("logits",))

    rewritten = setup.reference().with_runner(optimised()).answer(rows, None, keep_all)
    if np.abs(rewritten - expected).max() <= 2e-6 * np.abs(expected).max():
        pytest.skip("convolutions are not blocked on this processor")
    evaluator = open_evaluator(setup.candidates, setup.reference(), optimised=optimised)
    np.testing.assert_array_equal(evaluator.answer(rows, None, keep_all), expected)


def test_the_masks_themselves_are_image_by_image_where_images_mix() -> None:
    setup = set_up(network(shared), pictures(9))
    reference = setup.reference(batch_size=4)
    assert isinstance(reference, MaskEvaluator)
    row = np.ones((1, len(setup.roster)), bool)
    apart = [reference.answer(row, np.array([[i]]), keep_all)[0, 0] for i in range(9)]
    np.testing.assert_array_equal(reference.answer(row, None, keep_all)[0], np.stack(apart))


@pytest.mark.parametrize("kind", ["noise", "dropout"])
def test_random_answers_are_refused_by_the_name_of_their_node(kind: str) -> None:
    net = Network()
    x = net.conv("image", 2, 4)
    if kind == "noise":
        x = net.op("Add", x, net.op("RandomNormalLike", x))
    else:
        x = net.op("Dropout", x, net.store(0.5), net.store(True, np.bool_))
    with pytest.raises(ModelError, match=r"answers at random: node '(randomnormallike|dropout)\d"):
        settle_batching(opened(net.model(x, 4)), pictures(4))


def test_a_node_that_no_rule_knows_is_named_by_the_trial() -> None:
    model = network(counted)
    assert find_mixers(model, "image") == ()
    batching = settle_batching(opened(model), pictures(4))
    assert batching.opened.step == 1
    named = next(node.name for node in model.graph.node if node.op_type == "Div")
    assert f"node '{named}' (Div) is the first that differs" in batching.note
