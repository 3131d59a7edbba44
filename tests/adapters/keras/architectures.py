"""Small Keras models of the well-known kinds, with weights under which no filter is degenerate."""

from __future__ import annotations

from typing import Any

import numpy as np


def keras_module() -> Any:
    """Keras as the adapter imports it."""
    from repairkit_adapters.keras.keras_runtime import load_runtime

    return load_runtime().keras


def settled(model: Any, seed: int = 0) -> Any:
    """The model with drawn weights, and normalisations that hold the statistics of images."""
    keras = keras_module()
    rng = np.random.default_rng(seed)
    norms = []
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            norms.append(layer)
            n = layer.moving_mean.shape[0]
            if layer.scale:
                layer.gamma.assign(rng.uniform(0.7, 1.6, n) * rng.choice([-1, 1], n, p=[0.1, 0.9]))
            if layer.center:
                layer.beta.assign(rng.normal(0.1, 0.3, n))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0, 0.2, layer.bias.shape))
        for name in ("_kernel", "kernel", "depthwise_kernel", "pointwise_kernel"):
            kernel = getattr(layer, name, None) if layer.built else None
            if kernel is not None and hasattr(kernel, "assign"):
                fan = float(np.prod(kernel.shape)) / max(_n_out(layer, name, kernel), 1)
                kernel.assign(rng.normal(0, np.sqrt(2.0 / max(fan, 1)), kernel.shape))
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(images(model.input_shape[1:], 16), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.moving_variance.assign(norm.moving_variance + 0.05)
    return model


def _n_out(layer: Any, name: str, kernel: Any) -> int:
    if "Transpose" in type(layer).__name__:
        return int(kernel.shape[-2])
    if name == "depthwise_kernel" or "Depthwise" in type(layer).__name__:
        return int(kernel.shape[-2] * kernel.shape[-1])
    return int(kernel.shape[-1])


def images(shape: tuple[int, ...], n: int = 8, seed: int = 1) -> np.ndarray:
    """Images of smooth blobs, each unlike the others."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    found = np.zeros((n, *shape), np.float32)
    for image in found:
        for channel in range(channels):
            for _ in range(3):
                cy, cx, spread = rng.random(3)
                blob = np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (0.02 + 0.1 * spread))
                image[..., channel] += rng.normal() * blob
    return found + rng.normal(0, 0.1, found.shape).astype(np.float32)


def plain() -> Any:
    """Every place that a constant can have: bias, none, before and after normalisation, two calls.

    The last convolution but one is alone, and its output is read twice.
    """
    keras = keras_module()
    layers = keras.layers
    x = inputs = keras.Input((12, 12, 3), name="photo")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="with_bias")(x)
    x = layers.Conv2D(5, 3, use_bias=False, name="bare")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(7, 3, strides=2, padding="same", name="normed")(x)
    x = layers.BatchNormalization()(x)
    x = layers.LeakyReLU()(x)
    x = layers.Conv2D(6, 3, padding="same", use_bias=False, name="unscaled")(x)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.Activation("tanh")(x)
    x = layers.Conv2D(6, 1, name="uncentred")(x)
    x = layers.BatchNormalization(center=False)(x)
    a = layers.Conv2D(6, 3, padding="same", name="twice_read")(x)
    x = layers.Add()([layers.BatchNormalization()(a), a])
    x = layers.Conv2D(4, 3, activation="elu", name="activated")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x), name="plain")


def separable() -> Any:
    """Depthwise and separable convolutions, with and without bias and normalisation."""
    keras = keras_module()
    layers = keras.layers
    x = inputs = keras.Input((12, 12, 3))
    x = layers.SeparableConv2D(6, 3, activation="relu", depth_multiplier=2, name="sep_bias")(x)
    x = layers.SeparableConv2D(5, 3, padding="same", use_bias=False, name="sep_norm")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(6.0)(x)
    x = layers.SeparableConv2D(6, 3, use_bias=False, strides=2, padding="same", name="sep_bare")(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depth_bias")(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, padding="same", name="depth_norm")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, use_bias=False, padding="same", name="depth_bare")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(4)(x))


def nested() -> Any:
    """A model inside a model, and a layer that is called twice."""
    keras = keras_module()
    layers = keras.layers
    encoder = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(6, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
        ],
        name="encoder",
    )
    inner = keras.Input((10, 10, 6))
    branch = layers.Conv2D(6, 3, padding="same", name="conv")(inner)
    twice = layers.Conv2D(6, 3, padding="same", activation="relu", name="twice")
    body = keras.Model(inner, layers.Add()([inner, twice(twice(branch))]), name="body")
    inputs = keras.Input((12, 12, 3))
    x = layers.GlobalAveragePooling2D()(body(encoder(inputs)))
    return keras.Model(inputs, layers.Dense(4)(x))


def subclassed() -> Any:
    """A model of the user's own class, from blocks of the user's own, which tells no input size."""
    keras = keras_module()

    class Block(keras.layers.Layer):
        def __init__(self, n: int, **settings: Any) -> None:
            super().__init__(**settings)
            self.conv = keras.layers.Conv2D(n, 3, name="conv")
            self.norm = keras.layers.BatchNormalization(name="norm")

        def call(self, x: Any, training: bool = False) -> Any:
            return keras.ops.relu(self.norm(self.conv(x), training=training))

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = [Block(5, name="first"), Block(4, name="second")]
            self.scores = keras.layers.Dense(3, name="scores")

        def call(self, x: Any, training: bool = False) -> Any:
            for block in self.blocks:
                x = block(x, training=training)
            return self.scores(keras.ops.mean(x, axis=(1, 2)))

    return Own()


def squeezenet() -> Any:
    """SqueezeNet with three fire modules."""
    keras = keras_module()
    layers = keras.layers

    def fire(x: Any, squeeze: int, expand: int, name: str) -> Any:
        x = layers.Conv2D(squeeze, 1, activation="relu", name=f"{name}_squeeze")(x)
        one = layers.Conv2D(expand, 1, activation="relu", name=f"{name}_expand1x1")(x)
        three = layers.Conv2D(
            expand, 3, padding="same", activation="relu", name=f"{name}_expand3x3"
        )(x)
        return layers.Concatenate()([one, three])

    x = inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, strides=2, activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(3, 2)(x)
    x = fire(x, 8, 12, "fire2")
    x = fire(x, 8, 12, "fire3")
    x = layers.MaxPooling2D(3, 2)(x)
    x = fire(x, 12, 16, "fire4")
    x = layers.Conv2D(5, 1, name="conv10")(x)
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


def resnet() -> Any:
    """A residual network of three stages, the shortcuts projected."""
    keras = keras_module()
    layers = keras.layers

    def normed(x: Any, n: int, strides: int = 1, size: int = 3) -> Any:
        x = layers.Conv2D(n, size, strides=strides, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    x = inputs = keras.Input((24, 24, 3))
    x = layers.ReLU()(normed(x, 8))
    for n, strides in ((8, 1), (12, 2), (16, 2)):
        y = normed(layers.ReLU()(normed(x, n, strides)), n)
        shortcut = x if strides == 1 else normed(x, n, strides, 1)
        x = layers.ReLU()(layers.Add()([y, shortcut]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


def densenet() -> Any:
    """A DenseNet of two blocks: normalisation before convolution, outputs joined."""
    keras = keras_module()
    layers = keras.layers

    def step(x: Any, n: int, size: int) -> Any:
        x = layers.ReLU()(layers.BatchNormalization()(x))
        return layers.Conv2D(n, size, padding="same", use_bias=False)(x)

    x = inputs = keras.Input((24, 24, 3))
    x = layers.Conv2D(12, 3, padding="same", use_bias=False)(x)
    for block in range(2):
        for _ in range(3):
            x = layers.Concatenate()([x, step(step(x, 16, 1), 6, 3)])
        if block == 0:
            x = layers.AveragePooling2D(2)(step(x, 14, 1))
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5)(x))


def unet() -> Any:
    """A U-Net of two levels with transposed convolutions; its output is an image."""
    keras = keras_module()
    layers = keras.layers

    def block(x: Any, n: int) -> Any:
        x = layers.Conv2D(n, 3, padding="same", activation="relu")(x)
        x = layers.Conv2D(n, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    x = inputs = keras.Input((16, 16, 3))
    kept = []
    for n in (6, 10):
        x = block(x, n)
        kept.append(x)
        x = layers.MaxPooling2D()(x)
    x = block(x, 12)
    for n, skip in zip((10, 6), reversed(kept), strict=True):
        x = layers.Conv2DTranspose(n, 2, strides=2, name=f"up{n}")(x)
        x = block(layers.Concatenate()([x, skip]), n)
    x = layers.Conv2DTranspose(4, 3, padding="same", use_bias=False, name="smooth")(x)
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="head")(x))


def mobilenet() -> Any:
    """MobileNetV2 of `keras.applications`, as thin as it goes."""
    keras = keras_module()
    return keras.applications.MobileNetV2(
        weights=None, input_shape=(32, 32, 3), alpha=0.1, classes=5
    )
