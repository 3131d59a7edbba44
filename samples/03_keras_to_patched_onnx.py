"""From a trained Keras model to a patched ONNX file, and the repair home again.

    python samples/03_keras_to_patched_onnx.py

Needs `pip install 'repairkit[cpu,keras]'`. A small network learns the light-on-dark digits of
samples/digits, and of the dark-on-light ones a few. It goes to ONNX with a proven map from Keras's
layers to filters; the filters are scored by what they do to the worse group, and the worst of them
is frozen; and the same channel is frozen in the Keras model, which is saved.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import repairkit

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
try:
    import keras
    import tf2onnx  # noqa: F401 - writes the ONNX file

    from repairkit_adapters import keras_models
except ImportError as error:
    print(f"nothing to do without Keras: {error}")
    sys.exit(0)

SAMPLE = Path(__file__).parent / "digits" / "digits.npz"

# %% Digits, as Keras has images: (n, height, width, channels). ONNX will take them so too.


def read_digits() -> dict[str, Any]:
    """The packaged digits, from 0 to 1."""
    with np.load(SAMPLE) as file:
        held = dict(file)
    return {**held, "x": (held["x"][..., None] / 16).astype(np.float32)}


# %% A network, trained in a few seconds.


def train(digits: dict[str, Any]) -> Any:
    """A small network that sees few dark-on-light digits."""
    keras.utils.set_random_seed(7)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", use_bias=False, name="edges"),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
            layers.Conv2D(12, 3, strides=2, activation="relu", name="strokes"),
            layers.Flatten(),
            layers.Dense(10, name="scores"),
        ]
    )
    common = (digits["polarity"] == "light-on-dark") | (np.arange(len(digits["y"])) % 16 == 0)
    seen = (digits["split"] == "calibration") & common
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits["x"][seen], digits["y"][seen], batch_size=32, epochs=25, verbose=0)
    return model


# %% Export, repair, and take the repair home.


def main() -> None:
    """The way to ONNX and back."""
    digits = read_digits()
    model = train(digits)
    held_out = digits["split"] != "calibration"
    shown = digits["x"][held_out]
    settings = repairkit.Settings(groups=("polarity",))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "digits.npz"
        np.savez(data, **{key: digits[key][held_out] for key in ("x", "y", "polarity")})

        exported = repairkit.export(keras_models.wrap(model), out=folder / "model.onnx", data=data)
        print(f"{exported.n_proven} of {exported.n_filters} filters have a proven layer:")
        for mapped in exported.layers.layers:
            print(f"  {mapped.layer.name} ({mapped.layer.kind}) is the site {mapped.site}")

        scored = repairkit.score(
            exported.out, data, metric="group_accuracy", method="leave-one-out", settings=settings
        )
        worst = min(scored.table(), key=lambda row: row["value"])
        done = repairkit.patch(
            exported.out,
            data,
            out=folder / "patched.onnx",
            remove=(worst["filter"],),
            settings=settings,
        )
        (frozen,) = done.patch.frozen
        print(f"frozen: {exported.layers.origin(frozen.filter)} at {frozen.constant:.3f}")
        for group, before in done.before.groups.items():
            after = done.after.groups[group]
            print(f"{group}: {before.value:.3f} -> {after.value:.3f} on the test images")

        was = model.predict(shown, verbose=0)
        keras_models.apply_patch(model, done.patch_file)
        home = model.predict(shown, verbose=0)
        model.save(folder / "patched.keras")
        import onnxruntime

        session = onnxruntime.InferenceSession(done.out, providers=["CPUExecutionProvider"])
        (shipped,) = session.run(None, {session.get_inputs()[0].name: shown})
        print(f"greatest difference of outputs: {np.abs(home - shipped).max():.1e}")
    assert exported.n_proven == exported.n_filters == 20
    assert np.abs(home - shipped).max() <= 1e-4 * np.abs(shipped).max()
    assert (home.argmax(1) == shipped.argmax(1)).all()
    assert np.abs(home - was).max() > 0.01


if __name__ == "__main__":
    main()
