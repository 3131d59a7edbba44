"""ONNX Runtime for JavaScript, under Node.js: onnxruntime-node, and the WebAssembly of the web.

The packages are the user's own, as npm installed them. `node` runs `run_model.cjs`, which finds the
package as Node.js does: in the folder that was named or the working folder, in `node_modules` of
the folders above it, and in NODE_PATH. Model, feeds and answers pass through a temporary folder.
onnxruntime-web is the same WebAssembly that a browser runs; its GPU backends are not checked.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from repairkit.core import errors
from repairkit.engine.runtimes import foreign

_SCRIPT = Path(__file__).with_name("run_model.cjs")
_TYPES = {
    f"{kind}{bits}": np.dtype(f"{kind}{bits}")
    for kind, sizes in (
        ("float", (16, 32, 64)),
        ("int", (8, 16, 32, 64)),
        ("uint", (8, 16, 32, 64)),
    )
    for bits in sizes
} | {"bool": np.dtype(bool)}


@dataclass(frozen=True)
class NodeRuntime:
    """A package of ONNX Runtime that Node.js runs.

    Attributes:
        name: of the package, and as `--runtime` takes it.
        folder: where to look for it; the working folder if None.
    """

    name: str
    folder: Path | None = None
    tolerance: float = foreign.FLOAT_TOLERANCE

    @property
    def title(self) -> str:
        return self.name

    def run(self, model: ModelProto, feeds: Sequence[foreign.Feeds]) -> foreign.Answered:
        """See `ForeignRuntime.run`."""
        node = shutil.which("node")
        if node is None:
            raise errors.DeviceError(
                f"{self.name} needs Node.js, and there is no `node` on the path; install Node.js "
                f"18 or later, and then `npm install {self.name}`"
            )
        content = foreign.content_of(model, self.title)
        with tempfile.TemporaryDirectory(prefix="repairkit-") as place:
            folder = Path(place)
            (folder / "model.onnx").write_bytes(content)
            self._write_job(folder, feeds)
            done = subprocess.run(
                [node, str(_SCRIPT), place], capture_output=True, text=True, check=False
            )
            answer = self._read_answer(folder, done)
            runs = [[_read_tensor(folder, told) for told in run] for run in answer["runs"]]
        how = "WebAssembly under Node.js" if self.name.endswith("web") else "the CPU under Node.js"
        return foreign.Answered(runs, answer["version"], f"on {how}, from {answer['location']}")

    def _write_job(self, folder: Path, feeds: Sequence[foreign.Feeds]) -> None:
        runs = []
        for number, fed in enumerate(feeds):
            told = {}
            for k, (name, array) in enumerate(fed.items()):
                if array.dtype.name not in _TYPES:
                    raise errors.ModelError(
                        f"the input {name!r} takes {array.dtype}, which is not checked in "
                        f"{self.title}"
                    )
                file = f"i{number}_{k}"
                (folder / file).write_bytes(np.ascontiguousarray(array).tobytes())
                told[name] = {"type": array.dtype.name, "dims": list(array.shape), "file": file}
            runs.append(told)
        place = str((self.folder or Path.cwd()).absolute())
        job = {"package": self.name, "folder": place, "model": "model.onnx", "runs": runs}
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")

    def _read_answer(self, folder: Path, done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads((folder / "answer.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            said = foreign.refusal(self.title, "run", done.stderr or "it said nothing")
            raise errors.DeviceError(
                f"Node.js ended with code {done.returncode}: {said}"
            ) from error
        if "error" not in answer:
            return answer
        stage, message = answer["error"]["stage"], answer["error"]["message"]
        if stage != "find":
            raise foreign.refusal(self.title, stage, message)
        place = self.folder or Path.cwd()
        raise errors.DeviceError(
            f"the package {self.name} cannot be used from {place} ({message.splitlines()[0]}); run "
            f"`npm install {self.name}` there, or name the folder that has it with --node-modules"
        )


def _read_tensor(folder: Path, told: Mapping[str, Any]) -> Any:
    content = (folder / told["file"]).read_bytes()
    return np.frombuffer(content, _TYPES[told["type"]]).reshape(told["dims"])
