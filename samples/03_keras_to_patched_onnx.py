"""From a trained Keras model to a repaired ONNX file, and back into Keras.

    python samples/03_keras_to_patched_onnx.py

Needs `pip install 'repairkit[keras]'`. A small network learns the light-on-dark digits of
samples/digits, and of every dark-on-light one hardly any. It is exported with a proven map from its
layers to the filters of the ONNX file; filters that harm the worse group are frozen there; and the
same filters are then frozen in the Keras model, which answers as the repaired file does.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import onnxruntime

import repairkit
from repairkit.workflows.exporting import export
from repairkit_adapters import keras_models

folder = Path(tempfile.mkdtemp())

# %% Train a Keras model. Its images are NHWC, and the ONNX file will keep that.
digits = np.load(Path(__file__).parent / "digits" / "digits.npz")
images = (digits["x"][..., None] / 16).astype(np.float32)
labels, polarity, split = digits["y"], digits["polarity"], digits["split"]
keras.utils.set_random_seed(7)
common = (polarity == "light-on-dark") | (np.arange(len(labels)) % 16 == 0)
trained = np.flatnonzero((split == "calibration") & common)
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(12, 3, padding="same", use_bias=False, name="edges"),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="strokes"),
        keras.layers.Flatten(),
        keras.layers.Dense(10, name="scores"),
    ]
)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images[trained], labels[trained], batch_size=32, epochs=25, verbose=0)

# %% Export it: outputs are compared on these images, and every filter is traced to its layer.
data = folder / "digits.npz"
rest = split != "calibration"
np.savez(data, x=images[rest], y=labels[rest], polarity=polarity[rest])
settings = repairkit.Settings(data=data, groups=("polarity",))
done = export(keras_models.wrap(model), folder / "digits.onnx", settings=settings)
print(f"{done.n_proven} of {done.n_filters} filters are proven to be a layer's channel")
assert done.n_proven == done.n_filters == 28

# %% Score the filters for the worst group, and freeze the one that harms it most.
scored = repairkit.score(done.out, metric="group_accuracy", max_evaluations=1000, settings=settings)
worst = min(scored.table(), key=lambda row: row["value"])
patched = repairkit.patch(
    done.out, out=folder / "repaired.onnx", remove=[worst["filter"]], settings=settings
)
(frozen,) = patched.patch.frozen
print(f"frozen: {done.layers.origin(frozen.filter)} at {frozen.constant:.3f}")
for name in patched.before.groups:
    before, after = patched.before.groups[name], patched.after.groups[name]
    print(f"{name}: {before.value:.3f} -> {after.value:.3f} on the test images")

# %% Take the repair home: the Keras model answers as the repaired ONNX file does.
shown = images[rest][:200]
before = model.predict(shown, verbose=0)
keras_models.apply_patch(model, patched.patch_file, layers=done.out)
ours = model.predict(shown, verbose=0)
session = onnxruntime.InferenceSession(patched.out, providers=["CPUExecutionProvider"])
(theirs,) = session.run(None, {session.get_inputs()[0].name: shown})
print(f"Keras and ONNX differ by {np.abs(ours - theirs).max():.1e} at the most")
assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()
assert (ours.argmax(1) == theirs.argmax(1)).all()
assert np.abs(ours - before).max() > 0.01
model.save(folder / "repaired.keras")
