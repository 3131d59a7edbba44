"""Spoiled copies: what each corruption does, against its definition; and where copies go."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repairkit.core import attacked
from repairkit.core.errors import DataError, SettingsError
from repairkit.core.suite import Annotations, Array
from repairkit.data.dataset import Dataset
from repairkit.data.parts import PartPlan, split_parts, split_selection, strata_of
from repairkit.data.preprocessing import Preprocessing, ReadyImages
from repairkit.data.reader import DataRequest, read_data
from repairkit.data.sources.corruptions import COMMON, KINDS, Corruption, read_corruptions
from repairkit.repairs.crossfit import assign_folds
from tests.data.builders import PLAIN, noise, save_folder, spec


def picture(side: int, channels: int = 3) -> Array:
    """Smooth shapes and an edge, from 0 to 1."""
    y, x = np.mgrid[:side, :side] / (side - 1)
    planes = [0.5 + 0.4 * np.sin(5 * x + k) * np.cos(4 * y) for k in range(channels)]
    image = np.stack(planes, axis=-1)
    image[side // 3 : side // 2, side // 4 :] = 0.9
    return image.astype(np.float32)


def spoil(name: str, image: Array, severity: int = 3, number: int = 0) -> Array:
    return Corruption(name, severity).spoil(image, number)


def read(
    path: Path | Any, names: tuple[str, ...], prepare: Preprocessing = PLAIN, **options: Any
) -> Dataset:
    model = options.pop("model", spec())
    request = DataRequest(spec=model, preprocessing=prepare, corruptions=names, **options)
    return read_data(path, request)


def archive(folder: Path, x: Array, name: str = "data.npz", **more: Array) -> Path:
    np.savez(folder / name, x=x, y=np.arange(len(x)) % 2, **more)
    return folder / name


def every(data: Dataset) -> Array:
    return data.images.batch(np.arange(len(data.images)))


@pytest.mark.parametrize("side", [48, 80])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", KINDS)
def test_a_higher_severity_spoils_more(name: str, channels: int, side: int) -> None:
    image = picture(side, channels)
    away = [float(((spoil(name, image, s) - image) ** 2).mean()) for s in range(1, 6)]
    assert away[0] > 0
    # Blocks of pixels may lie well on an edge at one size and badly at the next.
    assert away == sorted(away) or (name == "pixelate" and away[0] < away[-1])
    last = spoil(name, image, 5)
    assert last.shape == image.shape
    assert last.dtype == np.float32
    assert last.min() >= 0
    assert last.max() <= 1


@pytest.mark.parametrize(("side", "severity"), [(64, 1), (64, 5), (65, 2)])
def test_noise_has_the_moments_of_its_distribution(side: int, severity: int) -> None:
    gray = np.full((side, side, 3), 0.5, np.float32)
    numbers = range(12)

    def deviations(name: str) -> tuple[float, float]:
        made = np.stack([spoil(name, gray, severity, n) for n in numbers]) - 0.5
        return float(made.std()), Corruption(name, severity).strength(side)

    found, strength = deviations("gaussian_noise")
    assert found == pytest.approx(strength, rel=0.03)
    found, photons = deviations("shot_noise")
    assert found == pytest.approx((0.5 / photons) ** 0.5, rel=0.03)
    found, share = deviations("impulse_noise")
    assert found == pytest.approx((share / 4) ** 0.5, rel=0.05)


@pytest.mark.parametrize("severity", [2, 4])
def test_blur_is_that_of_a_gaussian(severity: int) -> None:
    """Pillow's blur has a Gaussian's variance; 8 bits and its three boxes differ a little."""
    edge = np.zeros((81, 81, 1), np.float32)
    edge[:, 41:] = 1
    deviation = Corruption("gaussian_blur", severity).strength(81)
    away = np.arange(81) - 40
    weights = np.exp(-(away**2) / (2 * deviation**2))
    expected = np.cumsum(weights / weights.sum())
    blurred = spoil("gaussian_blur", edge, severity)[40, :, 0]
    assert np.abs(blurred[1:] - expected[:-1])[10:70].max() < 0.025


@given(st.tuples(*[st.floats(0.01, 1)] * 3), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_brightness_raises_the_value_and_keeps_hue_and_saturation(
    color: tuple[float, float, float], severity: int
) -> None:
    image = np.tile(np.array(color, np.float32), (4, 4, 1))
    changed = spoil("brightness", image, severity)[0, 0].tolist()
    hue, saturation, value = colorsys.rgb_to_hsv(*image[0, 0].tolist())
    raised = min(1.0, value + Corruption("brightness", severity).strength(4))
    assert changed == pytest.approx(colorsys.hsv_to_rgb(hue, saturation, raised), abs=1e-5)


def test_contrast_shrinks_about_the_mean_of_each_channel() -> None:
    image = picture(80)
    changed, kept = spoil("contrast", image, 4), Corruption("contrast", 4).strength(80)
    np.testing.assert_allclose(changed.mean((0, 1)), image.mean((0, 1)), atol=1e-5)
    np.testing.assert_allclose(changed.std((0, 1)), kept * image.std((0, 1)), rtol=1e-4)


def test_jpeg_is_what_a_file_of_that_quality_gives_back(tmp_path: Path) -> None:
    image = picture(40)
    path = tmp_path / "stored.jpg"
    bits = np.rint(image * 255).astype(np.uint8)
    Image.fromarray(bits).save(path, quality=int(Corruption("jpeg_compression", 5).strength(40)))
    expected = np.asarray(Image.open(path)) / 255
    np.testing.assert_allclose(spoil("jpeg_compression", image, 5), expected, atol=1e-6)


def test_pixels_become_blocks_of_their_mean() -> None:
    image = picture(80, 1)
    changed = spoil("pixelate", image, 5)[..., 0]  # a quarter of the side
    means = image[..., 0].reshape(20, 4, 20, 4).mean((1, 3))
    assert np.abs(changed - np.kron(means, np.ones((4, 4)))).max() < 2.5 / 255


def test_a_copy_is_the_same_in_any_company_and_for_any_store(tmp_path: Path) -> None:
    x = noise(6, 8, 8, 3, seed=4)
    x[0, 0, 0], x[0, 0, 1] = 0, 255
    prepare = Preprocessing(scale=1 / 255)
    alone = read(archive(tmp_path, x), ("noise",), prepare)
    common = read(archive(tmp_path, x), ("common", "pixelate:5"), prepare)
    kinds = common.annotations.attributes[attacked.CORRUPTION]
    assert list(dict.fromkeys(kinds)) == ["none", *COMMON, "pixelate:5"]
    np.testing.assert_array_equal(every(alone)[6:], every(common)[kinds == "gaussian_noise"])
    np.testing.assert_array_equal(every(common)[:6], x.transpose(0, 3, 1, 2) / np.float32(255))
    ready = (x / np.float32(255)).transpose(0, 3, 1, 2)
    direct = read(archive(tmp_path, ready, "ready.npz"), ("common", "pixelate:5"))
    assert np.abs(every(direct) - every(common)).max() < 0.6 / 255
    short = read(archive(tmp_path, x[:2]), ("noise",), prepare)
    np.testing.assert_array_equal(every(short)[2:], every(alone)[6:8])


def test_colours_keep_their_order_and_dim_pixels_their_range(tmp_path: Path) -> None:
    x = noise(4, 8, 8, 3, seed=5)
    plain = read(archive(tmp_path, x), ("jpeg", "noise"))
    turned = read(archive(tmp_path, x), ("jpeg", "noise"), Preprocessing(color="bgr"))
    np.testing.assert_array_equal(every(turned), every(plain)[:, ::-1])
    dim = read(archive(tmp_path, x // 16), ("noise:1", "jpeg:1", "contrast"))
    assert every(dim).max() == 15
    assert np.abs(every(dim)[4:8] - every(dim)[:4]).mean() < 1  # a noise of 4 % of 15
    assert any("0 to 15" in note for note in dim.notes)


def test_folders_and_archives_give_the_same_copies(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "images", {"a": 3, "b": 2})
    named = read(folder, ("common",), groups=("corruption",))
    assert named.annotations.group_names == tuple(sorted(("none", *COMMON)))
    assert named.annotations.labels.tolist() == [0, 0, 0, 1, 1] * 6
    pixels = every(read(folder, ())).transpose(0, 2, 3, 1).astype(np.uint8)
    stored = read(archive(tmp_path, pixels), ("common",))
    np.testing.assert_array_equal(every(stored), every(named))


def test_the_digest_tells_corruptions_and_severities_apart(tmp_path: Path) -> None:
    path = archive(tmp_path, noise(4, 8, 8, 3))
    digests = [read(path, names).digest for names in ((), ("noise",), ("noise:2",), ("blur",))]
    assert len(set(digests)) == 4
    assert read(path, ("noise:3",)).digest == digests[1]


def columns(n_images: int, seed: int, rng: np.random.Generator) -> Any:
    """Annotations of images with copies, in some order, grouped by corruption."""
    kinds = np.repeat(["none", "noise", "jpeg"], n_images)
    order = rng.permutation(3 * n_images)
    names, groups = np.unique(kinds[order], return_inverse=True)

    return Annotations(
        labels=np.tile(np.arange(n_images) % (2 + seed % 2), 3)[order],
        groups=groups.astype(np.int64),
        group_names=tuple(names.tolist()),
        attributes={"corruption": kinds[order], "image": np.tile(np.arange(n_images), 3)[order]},
    )


@given(st.integers(12, 40), st.integers(0, 99), st.floats(0.2, 0.6))
@settings(max_examples=30, deadline=None)
def test_an_image_and_its_copies_share_part_half_and_fold(
    n_images: int, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    about = columns(n_images, seed, rng)

    images = ReadyImages(np.zeros((len(about), 1), np.float32), np.dtype("float32"))
    data = Dataset(images=images, annotations=about, split=None, digest="")
    parts = split_parts(data, PartPlan(test=share), seed=seed)
    number = about.attributes["image"]
    selected, tested = (set(number[p.indices].tolist()) for p in (parts.selection, parts.test))
    assert not selected & tested
    assert len(parts.selection) == 3 * len(selected)
    assert len(parts.test) == 3 * len(tested)
    assert abs(len(tested) - share * n_images) <= 1
    assert set(about.attributes["corruption"][parts.calibration.indices]) == {"none"}
    halves = split_selection(parts.selection, 0.4, seed)
    first, second = (set(h.annotations.attributes["image"]) for h in (halves.choosing,
        halves.confirmation))  # fmt: skip
    assert not first & second
    folds = assign_folds(strata_of(about), 3, rng, twins=attacked.twins_of(about))
    assert all(len(set(folds.fold_of[number == n])) == 1 for n in range(n_images))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("gausian_noise",), "did you mean 'gaussian_noise'"),
        (("jpeg:9",), "severity '9'; expected 1, 2, 3, 4 or 5"),
        (("jpeg:",), "severity ''"),
        (("common", "blur"), "'gaussian_blur' twice"),
    ],
)
def test_a_name_that_is_none_is_refused_in_one_line(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match="--corruptions") as refusal:
        read_corruptions(names)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_severities_of_one_kind_stand_beside_each_other() -> None:
    assert [str(c) for c in read_corruptions(("JPEG", "jpeg-compression:5"))] == [
        "jpeg_compression",
        "jpeg_compression:5",
    ]


def test_data_that_has_the_column_and_models_of_rows_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, noise(4, 8, 8, 3), image=np.arange(4))
    with pytest.raises(DataError, match="column 'image' and --corruptions makes one"):
        read(path, ("noise",))
    rows = np.zeros((4, 5), np.float32)
    model = spec(5, layout="other")
    with pytest.raises(SettingsError, match="--corruptions spoils images"):
        read(archive(tmp_path, rows, "rows.npz"), ("noise",), model=model)


def test_a_stored_copy_is_the_file_that_pillow_would_write(tmp_path: Path) -> None:
    """From an archive of gray pixels to the model's input, in the model's layout."""
    x = (255 * np.stack([picture(16, 1)[..., 0], picture(16, 1)[::-1, :, 0]])).astype(np.uint8)
    data = read(archive(tmp_path, x), ("jpeg:5",), model=spec(16, 16, 1, layout="nhwc"))
    for number, image in enumerate(x):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=40)
        found = data.images.batch(np.array([2 + number]))[0, :, :, 0]
        np.testing.assert_array_equal(found, np.asarray(Image.open(file)))
