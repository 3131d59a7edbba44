"""Only what was named is found in a folder, and its neighbours by its own code alone."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DataError
from repairkit.core.process.trust import import_named, refuse_untrusted, without
from repairkit.core.suite import Annotations
from repairkit.metrics.user import user_metric

PLANTED = "raise SystemExit('planted code was run')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's, with a library installed below it that probes for an option."""
    library = tmp_path / ".venv" / "site-packages"
    library.mkdir(parents=True)
    (library / "probing_library.py").write_text(
        "try:\n    import planted_option\nexcept ImportError:\n    planted_option = None\n"
    )
    (tmp_path / "planted_option.py").write_text(PLANTED)
    (tmp_path / "own_helper.py").write_text("VALUE = 3\n")
    (tmp_path / "late_helper.py").write_text("VALUE = 4\n")
    (tmp_path / "own_code.py").write_text(
        "import own_helper, probing_library\n"
        "def late():\n    import late_helper\n    return own_helper.VALUE + late_helper.VALUE\n"
    )
    monkeypatch.syspath_prepend(str(library))
    return tmp_path


def test_a_named_module_finds_its_neighbours_now_and_later(folder: Path) -> None:
    path = list(sys.path)
    assert import_named("own_code", folder).late() == 7
    assert sys.path == path


def test_what_lies_beside_a_named_module_is_imported_by_nobody_else(folder: Path) -> None:
    import_named("own_code", folder)
    assert sys.modules["probing_library"].planted_option is None
    for name in ("planted_option", "another_option"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


def test_an_installed_module_is_never_shadowed(folder: Path) -> None:
    (folder / "probing_library.py").write_text(PLANTED)
    (folder / "json.py").write_text(PLANTED)
    for name in ("own_code", "probing_library", "json"):
        assert import_named(name, folder)


def test_packages_and_their_parts_can_be_named(folder: Path) -> None:
    (folder / "own_package").mkdir()
    (folder / "own_package" / "part.py").write_text("from own_package.other import VALUE\n")
    (folder / "own_package" / "other.py").write_text(
        "import own_helper\nVALUE = own_helper.VALUE\n"
    )
    assert import_named("own_package.part", folder).VALUE == 3


def test_a_module_is_found_in_no_folder_but_that_it_was_named_for(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    with pytest.raises(ModuleNotFoundError):
        import_named("own_code", folder / "elsewhere")


def test_a_metric_goes_to_a_worker_by_name_and_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "own_metric.py").write_text(
        "def judge(outputs, labels, attributes):\n    return 0.5\n"
    )
    annotations = Annotations(labels=np.zeros(2, np.intp))
    sent = pickle.dumps(user_metric("own_metric:judge", annotations, np.zeros((2, 3))))
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "folder", None) != folder.resolve()]
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder / "empty")
    assert pickle.loads(sent).score(np.zeros((2, 3)), annotations) == 0.5


def test_what_a_file_names_is_refused_in_one_line_of_fixed_words() -> None:
    refuse_untrusted(DataError, "run.json", (), trust=False)
    refuse_untrusted(DataError, "run.json", "os:system", trust=True)
    with pytest.raises(DataError) as caught:
        refuse_untrusted(DataError, "run.json", ["a:b", "c:d", "e:f", "g:h"], trust=False)
    message = str(caught.value)
    assert message.startswith("run.json: names or holds code that would run: a:b, c:d, e:f and 1")
    assert "--trust" in message
    assert "\n" not in message


def test_what_the_keyboard_names_too_is_allowed() -> None:
    named_by = {"a:b": "run.json", "a:c": "run.json"}
    assert without(named_by, ["a:b", "accuracy"]) == {"a:c": "run.json"}
