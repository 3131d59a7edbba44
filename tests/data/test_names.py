from __future__ import annotations

import pytest

from repairkit.core.errors import SettingsError
from repairkit.core.process.text import check_keys, first_line, listing


def test_an_unknown_key_is_refused_with_the_known_ones_and_a_guess() -> None:
    with pytest.raises(SettingsError, match=r"here: unknown key 'crp'; did you mean 'crop'\?.*std"):
        check_keys(["crp"], ["crop", "std"], "here")


def test_a_long_list_of_names_is_cut() -> None:
    assert listing([str(i) for i in range(20)]).endswith("... (8 more)")


def test_only_the_first_line_of_an_error_is_kept() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
