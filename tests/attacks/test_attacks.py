"""Laws of the attacks, and their agreement with the Adversarial Robustness Toolbox."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.attacks import Pgd, PixelBox, Square, pgd, random_targets, square
from repairkit.core.errors import DataError, SettingsError
from repairkit.core.suite import Array

CHANNELS, SIDE, CLASSES = 3, 6, 4
MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.25])


def linear_model(channel_axis: int = 0, seed: int = 0) -> NDArray[np.float64]:
    """Weights (classes, *image) of a linear classifier."""
    shape = (CHANNELS, SIDE, SIDE) if channel_axis == 0 else (SIDE, SIDE, CHANNELS)
    return np.random.default_rng(seed).standard_normal((CLASSES, *shape))


def logits(weights: Array, images: Array) -> Array:
    return np.tensordot(images, weights, axes=((1, 2, 3), (1, 2, 3)))


def cross_entropy_gradients(weights: Array) -> Any:
    def gradients(images: Array, labels: NDArray[np.intp]) -> Array:
        scores = logits(weights, images.astype(np.float64))
        likely = np.exp(scores - scores.max(1, keepdims=True))
        likely /= likely.sum(1, keepdims=True)
        likely[np.arange(len(labels)), labels] -= 1
        return np.tensordot(likely, weights, axes=(1, 0)).astype(np.float32)

    return gradients


def standardised(channel_axis: int = 0) -> PixelBox:
    """The box of pixels in 0..1 from which a mean is taken and that a deviation divides."""
    shape = (-1, 1, 1) if channel_axis == 0 else (1, 1, -1)
    low, high = ((end - MEAN) / STD for end in (0.0, 1.0))
    return PixelBox(
        low.astype(np.float32).reshape(shape), high.astype(np.float32).reshape(shape), channel_axis
    )


def draw_images(box: PixelBox, n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    shape = (CHANNELS, SIDE, SIDE) if box.channel_axis == 0 else (SIDE, SIDE, CHANNELS)
    return (box.low + rng.random((n, *shape)) * (box.high - box.low)).astype(np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    epsilon=st.floats(0.004, 0.9),
    axis=st.sampled_from([0, 2]),
    start=st.booleans(),
)
def test_pgd_stays_in_the_ball_and_in_the_pixel_range(
    seed: int, epsilon: float, axis: int, *, start: bool
) -> None:
    rng = np.random.default_rng(seed)
    box = standardised(axis)
    images = draw_images(box, 3, rng)
    kept = images.copy()
    settings = Pgd(epsilon, n_steps=4, step_size=epsilon / 3, random_start=start)
    targets = rng.integers(0, CLASSES, 3)
    made = pgd(images, targets, cross_entropy_gradients(linear_model(axis)), box, settings, rng)
    assert made.dtype == np.float32
    assert np.array_equal(images, kept)
    assert box.distance(made, images) <= epsilon + 1e-6
    assert (made >= box.low).all()
    assert (made <= box.high).all()


@given(seed=st.integers(0, 2**32 - 1), epsilon=st.floats(0.01, 0.9), axis=st.sampled_from([0, 2]))
def test_square_stays_in_the_ball_and_never_moves_away(
    seed: int, epsilon: float, axis: int
) -> None:
    rng = np.random.default_rng(seed)
    box, weights = standardised(axis), linear_model(axis)
    images = draw_images(box, 3, rng)
    targets = rng.integers(0, CLASSES, 3)
    asked: list[int] = []

    def scores(shown: Array) -> Array:
        asked.append(len(shown))
        return logits(weights, shown)

    def margins(shown: Array) -> Array:
        found = logits(weights, shown)
        own = found[np.arange(3), targets].copy()
        found[np.arange(3), targets] = -np.inf
        return own - found.max(1)

    few = square(images, targets, scores, box, Square(epsilon, 1), np.random.default_rng(seed))
    assert asked == [3]
    many = square(images, targets, scores, box, Square(epsilon, 40), np.random.default_rng(seed))
    assert len(asked) <= 41
    assert (margins(many) >= margins(few)).all()
    assert box.distance(many, images) <= epsilon + 1e-6
    assert ((many >= box.low) & (many <= box.high)).all()


def test_square_fools_a_linear_model_with_enough_queries() -> None:
    rng = np.random.default_rng(1)
    box, weights = standardised(), linear_model()
    images = draw_images(box, 40, rng)
    targets = random_targets(logits(weights, images).argmax(1), CLASSES, rng)
    made = square(images, targets, lambda x: logits(weights, x), box, Square(0.25, 300), rng)
    assert (logits(weights, made).argmax(1) == targets).mean() > 0.9


def test_a_model_that_gives_no_numbers_is_not_fooled() -> None:
    box = standardised()
    images = draw_images(box, 2, np.random.default_rng(0))

    def broken(shown: Array) -> Array:
        return np.full((len(shown), CLASSES), np.nan)

    made = square(images, np.array([0, 1]), broken, box, Square(0.1, 5), np.random.default_rng(0))
    assert box.distance(made, images) <= 0.1 + 1e-6


def test_channels_move_by_the_same_number_of_pixels() -> None:
    box = standardised()
    images = np.broadcast_to((box.low + box.high) / 2, (2, CHANNELS, SIDE, SIDE)).astype(np.float32)
    settings = Pgd(16 / 255, 30, 0.8 / 255, random_start=False)
    targets, rng = np.array([0, 1]), np.random.default_rng(0)
    made = pgd(images, targets, cross_entropy_gradients(linear_model()), box, settings, rng)
    pixels = np.abs(made - images) * STD.reshape(-1, 1, 1) * 255
    assert np.allclose(pixels.max(axis=(0, 2, 3)), 16, atol=1e-3)


@given(seed=st.integers(0, 2**32 - 1), n_classes=st.integers(2, 9))
def test_targets_are_never_the_label(seed: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, 200)
    targets = random_targets(labels, n_classes, rng)
    assert (targets != labels).all()
    assert set(targets.tolist()) == set(range(n_classes))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Pgd(epsilon=0),
        lambda: Pgd(step_size=2),
        lambda: Pgd(n_steps=0),
        lambda: Square(epsilon=-1),
        lambda: Square(n_queries=0),
        lambda: PixelBox(np.ones(1), np.ones(1), 0),
        lambda: random_targets(np.zeros(2, np.intp), 1, np.random.default_rng(0)),
    ],
)
def test_settings_without_sense_are_refused(make: Any) -> None:
    with pytest.raises(SettingsError):
        make()


def test_images_beyond_the_range_are_refused() -> None:
    box = standardised()
    images = draw_images(box, 2, np.random.default_rng(0)) * 3
    with pytest.raises(DataError, match="--range LOW,HIGH"):
        box.check(images)


def _torch_network() -> Any:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(CHANNELS, 8, 3), torch.nn.ReLU(), torch.nn.Flatten()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(8 * (SIDE - 2) ** 2, CLASSES)).eval()


def test_pgd_agrees_with_the_adversarial_robustness_toolbox() -> None:
    """Step by step the same images, with the toolbox in pixels and ours in the model's scale."""
    torch = pytest.importorskip("torch")
    estimators = pytest.importorskip("art.estimators.classification")
    evasion = pytest.importorskip("art.attacks.evasion")
    network, rng, box = _torch_network(), np.random.default_rng(0), standardised()
    pixels = rng.random((12, CHANNELS, SIDE, SIDE), dtype=np.float32)
    targets = rng.integers(0, CLASSES, 12)

    def gradients(images: Array, labels: NDArray[np.intp]) -> Array:
        shown = torch.from_numpy(images).requires_grad_()
        loss = torch.nn.functional.cross_entropy(
            network(shown), torch.from_numpy(labels), reduction="sum"
        )
        return torch.autograd.grad(loss, shown)[0].numpy()

    classifier = estimators.PyTorchClassifier(
        network,
        torch.nn.CrossEntropyLoss(),
        (CHANNELS, SIDE, SIDE),
        CLASSES,
        clip_values=(0.0, 1.0),
        preprocessing=(MEAN.astype(np.float32), STD.astype(np.float32)),
    )
    for epsilon, n_steps in ((16 / 255, 30), (0.3, 7)):
        toolbox = evasion.ProjectedGradientDescent(
            classifier,
            norm=np.inf,
            eps=epsilon,
            eps_step=epsilon / 20,
            max_iter=n_steps,
            targeted=True,
            num_random_init=0,
            verbose=False,
        )
        expected = toolbox.generate(pixels, y=np.eye(CLASSES, dtype=np.float32)[targets])
        mean, std = (v.astype(np.float32).reshape(-1, 1, 1) for v in (MEAN, STD))
        settings = Pgd(epsilon, n_steps, epsilon / 20, random_start=False)
        made = pgd((pixels - mean) / std, targets, gradients, box, settings, rng)
        assert np.abs(expected - pixels).max() > 0.9 * min(epsilon, n_steps * epsilon / 20)
        # A gradient near zero may round to either sign: then a pixel goes the other way.
        off = np.abs(made * std + mean - expected) > 1e-4
        assert off.mean() < 0.01
