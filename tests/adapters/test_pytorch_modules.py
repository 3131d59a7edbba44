"""Modules that training has wrapped, and modules in 16 or 64 bits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from repairkit.core.errors import AdapterError, ExportError  # noqa: E402
from repairkit.core.framework import LoadOptions  # noqa: E402
from repairkit.core.results import Exported  # noqa: E402
from repairkit.jobs.export.exporting import export  # noqa: E402
from repairkit.jobs.setup.workbench import Settings  # noqa: E402
from repairkit_adapters.pytorch import ADAPTER, wrap  # noqa: E402
from tests.adapters.networks import SIDE, trained  # noqa: E402

SHAPE = (3, SIDE, SIDE)
# PyTorch's compiler itself uses what PyTorch has deprecated.
compiles = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


def exported(module: Any, folder: Path) -> Exported:
    return export(wrap(module, SHAPE), folder / "m.onnx", settings=Settings())


def compiled_in_place() -> Any:
    network = trained("resnet")
    network.compile()
    return network


def compiled_inside() -> Any:
    network = trained("resnet")
    network.layer1 = torch.compile(network.layer1)
    return network


WRAPPERS: dict[str, Callable[[], Any]] = {
    "data parallel": lambda: torch.nn.DataParallel(trained("resnet")),
    "compiled": lambda: torch.compile(trained("resnet")),
    "compiled, then parallel": lambda: torch.nn.DataParallel(torch.compile(trained("resnet"))),
    "compiled in place": compiled_in_place,
    "compiled inside": compiled_inside,
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(trained("resnet")),
}


@pytest.mark.long
@compiles
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_layers_of_a_wrapped_module_keep_the_names_that_the_user_knows(wrapper: str) -> None:
    plain = [layer.name for layer in wrap(trained("resnet"), SHAPE).layers]
    model = wrap(WRAPPERS[wrapper](), SHAPE)
    assert [layer.name for layer in model.layers] == plain


@compiles
def test_a_wrapped_module_is_exported_with_its_map(tmp_path: Path) -> None:
    module = torch.nn.DataParallel(torch.compile(trained("resnet")))
    done = exported(module, tmp_path)
    assert done.n_proven == done.n_filters > 0


@pytest.mark.long
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_a_module_of_other_precision_is_exported_in_32_bits(kind: Any, tmp_path: Path) -> None:
    module = trained("plain").to(kind)
    before = copy.deepcopy(module.state_dict())
    done = exported(module, tmp_path)
    assert done.n_proven == done.n_filters > 0
    assert done.relative < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert next(module.parameters()).dtype == kind


def test_weights_that_are_computed_are_converted_too(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normed = torch.nn.utils.weight_norm(torch.nn.Conv2d(3, 4, 3))
    network = torch.nn.Sequential(normed, torch.nn.Flatten(), torch.nn.LazyLinear(3))
    network(torch.zeros(1, *SHAPE))
    assert exported(network.half(), tmp_path).n_proven == 4


def test_a_module_that_casts_its_images_keeps_its_type(tmp_path: Path) -> None:
    class Casting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained("plain").half()

        def forward(self, x: Any) -> Any:
            return self.inner(x.half()).float()

    assert exported(Casting(), tmp_path).relative < 5e-3


def test_a_module_that_takes_any_number_of_inputs_is_exported(tmp_path: Path) -> None:
    class Loose(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained("plain")

        def forward(self, *images: Any, **_: Any) -> Any:
            return self.inner(images[0])

    assert exported(Loose(), tmp_path).n_proven > 0


@pytest.mark.long
def test_what_cannot_be_exported_is_told_for_what_it_is(tmp_path: Path) -> None:
    class Auto(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained("plain")

        def forward(self, x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x)

    with pytest.raises(ExportError, match="computes in bfloat16"):
        exported(Auto(), tmp_path)
    with pytest.raises(AdapterError, match=r"'0\.weight' has no numbers yet"):
        wrap(trained("plain").to("meta"), SHAPE)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_state_dict_of_a_wrapped_module_fits_the_factory(prefix: str, tmp_path: Path) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in trained("plain").state_dict().items()}
    path = tmp_path / "weights.pt"
    torch.save({**state, **({"n_averaged": torch.tensor(3)} if prefix == "module." else {})}, path)
    options = LoadOptions(weights=path, input_shape=SHAPE)
    model = ADAPTER.load("tests.adapters.networks:Plain", options)
    images = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(
        model.outputs(images), wrap(trained("plain"), SHAPE).outputs(images)
    )
