"""From a trained PyTorch model to a patched ONNX file, and the repair home again.

    python samples/02_pytorch_to_patched_onnx.py

Needs `pip install 'repairkit[cpu,pytorch]'`. A small network learns to tell which half of a picture
holds the brighter bars; three of its filters are then spoilt, as a bad update would. The model goes
to ONNX with a map from PyTorch's layers to filters; filters are chosen and frozen there; and the
same channels are frozen in the PyTorch model, so that training can go on.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import repairkit

try:
    import torch
    from torch import nn

    from repairkit_adapters import pytorch
except ImportError as error:
    print(f"nothing to do without PyTorch: {error}")
    sys.exit(0)

# %% Pictures: bars that stand in the left or the right half, under noise.


def draw_pictures(n_pictures: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of shape (n, 1, 12, 12) and which half is brighter."""
    rng = np.random.default_rng(seed)
    sides = rng.integers(0, 2, n_pictures)
    pictures = rng.normal(0, 1.2, (n_pictures, 1, 12, 12)).astype(np.float32)
    for picture, side in zip(pictures, sides, strict=True):
        picture[0, :, 6 * side : 6 * side + 6 : 2] += 0.7
    return pictures, sides


# %% A network, trained in a few seconds.


def train(pictures: np.ndarray, sides: np.ndarray, n_steps: int = 60) -> nn.Module:
    """A small network with normalisation, trained with Adam."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(48, 2),
    )
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for step in range(n_steps):
        rows = slice(64 * step % 512, 64 * step % 512 + 64)
        loss = nn.functional.cross_entropy(
            network(torch.from_numpy(pictures[rows])), torch.from_numpy(sides[rows])
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def spoil(network: nn.Module) -> None:
    """Let three channels of the second convolution shout, each its own noise."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for channel in (2, 5, 9):
            noise = torch.randn(8, 3, 3, generator=generator)
            network[3].weight[channel] = 4 * (noise - noise.mean((1, 2), keepdim=True))


# %% Export, repair, and take the repair home.


def main() -> None:
    """The way to ONNX and back; what the module then yields is what the patched file does."""
    pictures, sides = draw_pictures(1200, seed=0)
    network = train(pictures, sides)
    spoil(network)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "pictures.npz"
        np.savez(data, x=pictures[600:], y=sides[600:])

        exported = repairkit.export(
            pytorch.wrap(network, (1, 12, 12)), out=folder / "model.onnx", data=data
        )
        print(f"{exported.n_proven} of {exported.n_filters} filters have a proven layer:")
        for mapped in exported.layers.layers:
            print(f"  {mapped.layer.name} ({mapped.layer.kind}) is the site {mapped.site}")

        done = repairkit.patch(
            folder / "model.onnx",
            data,
            out=folder / "patched.onnx",
            remove=("3:2", "3:5", "3:9"),
        )
        before, after = done.before.metrics["accuracy"], done.after.metrics["accuracy"]
        print(f"accuracy on test images: {before.value:.3f} -> {after.value:.3f}")

        # The same channels in the module, held also through further training.
        pytorch.apply_patch(network, done.patch_file, parametrize=True)
        home = pytorch.wrap(network, (1, 12, 12)).outputs(pictures[:100])
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "patched.onnx"))
        shipped = session.run(None, {"images": pictures[:100]})[0]
        print(f"greatest difference of outputs: {np.abs(home - shipped).max():.1e}")
    assert exported.n_mapped == exported.n_filters
    np.testing.assert_allclose(home, shipped, rtol=1e-4, atol=1e-4 * np.abs(shipped).max())


if __name__ == "__main__":
    main()
