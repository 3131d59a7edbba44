"""From a trained Keras model to a repaired ONNX file, and back into Keras.

    python samples/03_keras_to_patched_onnx.py

Needs `pip install 'repairkit[keras]'`. A small network learns the light-on-dark digits of
samples/digits and hardly any dark-on-light ones. It is exported with a proven map from its layers
to the filters of the ONNX file, the filter that harms the worse group most is frozen there, and the
same filter is then frozen in the Keras model, which answers as the repaired file does.
"""

# %% Train a Keras model.
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
from repairkit_adapters import keras_models

digits = np.load(Path(__file__).parent / "digits" / "digits.npz")
images = (digits["x"][..., None] / 16).astype(np.float32)  # NHWC, as Keras has it
labels, polarity = digits["y"], digits["polarity"]

keras.utils.set_random_seed(7)
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        layers.Conv2D(12, 3, padding="same", use_bias=False, name="edges"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(16, 3, strides=2, activation="relu", name="strokes"),
        layers.Flatten(),
        layers.Dense(10, name="scores"),
    ]
)
rng = np.random.default_rng(7)
common = polarity == "light-on-dark"
trained = np.flatnonzero((digits["split"] == "calibration") & (common | (rng.random(len(labels)) < 0.1)))
