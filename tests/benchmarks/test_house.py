from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from benchmarks import house
from benchmarks.house import Offender
from benchmarks.modules import (
    Module,
    circles,
    graph_without_doors,
    import_graph,
    is_door,
    longest_chain,
    read_modules,
)


def tree(folder: Path, **files: str) -> tuple[Module, ...]:
    """The package `shop` of some files; `__` in a keyword stands for a folder's slash."""
    shop = folder / "shop"
    for name, text in {"door": "", **files}.items():
        path = shop / (name.replace("__", "/").replace("door", "__init__") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip("\n"))
    return read_modules(shop)


def lines(n: int) -> str:
    return "x = 1\n" * n


def test_a_module_is_named_by_its_path_and_knows_its_folder(tmp_path: Path) -> None:
    modules = tree(tmp_path, sales__door="", sales__till="x = 1\n\n# end\n")
    assert [(module.name, module.folder, module.n_lines) for module in modules] == [
        ("shop", "shop", 0),
        ("shop.sales", "shop.sales", 0),
        ("shop.sales.till", "shop.sales", 3),
    ]


def test_every_form_of_import_is_an_edge(tmp_path: Path) -> None:
    user = """
        import json
        import shop.plain
        from os import path
        from shop import member
        from shop.names import thing
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from shop.checked import Kind
        def late():
            from .relative import other
    """
    targets = dict.fromkeys(("plain", "member", "names", "checked", "relative"), "")
    graph = import_graph(tree(tmp_path, user=user, **targets))
    assert graph["shop.user"] == {f"shop.{name}" for name in targets}
    assert graph["shop.plain"] == frozenset()


def test_a_name_of_a_package_is_an_import_of_its_init(tmp_path: Path) -> None:
    modules = tree(tmp_path, door="VERSION = 1", user="from shop import VERSION")
    assert import_graph(modules)["shop.user"] == {"shop"}
    assert graph_without_doors(modules)["shop.user"] == {"shop"}


def test_a_circle_through_a_late_import_is_found(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        a="import shop.b",
        b="import shop.c",
        c="def late():\n    import shop.a",
        d="import shop.a",
    )
    assert circles(import_graph(modules)) == [("shop.a", "shop.b", "shop.c")]


def test_modules_without_a_circle_are_none(tmp_path: Path) -> None:
    modules = tree(tmp_path, a="import shop.b, shop.c", b="import shop.c", c="")
    assert circles(import_graph(modules)) == []


def test_the_longest_chain_takes_the_longer_way_and_counts_a_circle_once(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        a="import shop.b, shop.e",
        b="import shop.c",
        c="import shop.b, shop.d",
        d="import shop.e",
        e="",
    )
    chain = ("shop.a", "shop.b + shop.c", "shop.d", "shop.e")
    assert longest_chain(import_graph(modules)) == chain


def test_a_door_is_passed_through_to_the_module_that_defines_the_name(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        goods__door='''
            """Goods."""
            from shop.goods.fruit import Apple
            from shop.goods.tools import Saw as Blade
            __all__ = ["Apple", "Blade"]
        ''',
        goods__fruit="class Apple: ...",
        goods__tools="class Saw: ...",
        user="from shop.goods import Blade",
        again__door="from shop.goods import Apple",
        far="from shop.again import Apple",
    )
    whole, inner = import_graph(modules), graph_without_doors(modules)
    assert whole["shop.user"] == {"shop.goods"}
    assert inner["shop.user"] == {"shop.goods.tools"}
    assert inner["shop.far"] == {"shop.goods.fruit"}
    assert set(whole) - set(inner) == {"shop", "shop.goods", "shop.again"}
    assert len(longest_chain(whole)) == 4
    assert len(longest_chain(inner)) == 2


@pytest.mark.parametrize(
    ("text", "door"),
    [
        ('"""Words."""\nimport json\n__all__ = ["json"]\n', True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import json\n", True),
        ("LIST = [1]\n", False),
        ("def work(): ...\n", False),
    ],
)
def test_a_door_only_passes_on_names(tmp_path: Path, text: str, door: bool) -> None:
    modules = tree(tmp_path, door=text, plain="import json")
    assert [is_door(module) for module in modules] == [door, False]


def test_all_lines_of_an_import_count(tmp_path: Path) -> None:
    modules = tree(tmp_path, a="from os import (\n    path,\n    sep,\n)\nimport json; import re\n")
    assert house.n_import_lines(modules) == 5


def test_wide_constructions_are_those_of_own_classes_by_position(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        kinds="""
            class Box:
                @classmethod
                def of(cls):
                    return cls(1, 2, 3, 4, 5, 6, 7)
        """,
        user="""
            kinds.Box(1, 2, 3, 4, 5, 6)
            Box(1, 2, 3, 4, 5, f=6)
            print(1, 2, 3, 4, 5, 6)
        """,
    )
    assert house.wide_constructions(modules) == [
        Offender("shop.kinds:4", "cls", 7),
        Offender("shop.user:1", "Box", 6),
    ]


def test_any_is_counted_without_its_import(tmp_path: Path) -> None:
    text = """
        from typing import Any
        def f(a: Any, b: NDArray[Any], c: dict[str, typing.Any]) -> NDArray[float]: ...
    """
    modules = tree(tmp_path, a=text)
    assert house.uses_of_any(modules) == [Offender("shop.a", "", 3)]
    assert house.arrays_of_any(modules) == [Offender("shop.a", "", 1)]
    assert house.per_thousand(3, modules) == 1500


def test_many_parameters_leave_self_aside_and_know_the_command_line(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        a="class A:\n    def eight(self, a, b, c, d, e, f, g, h): ...\n",
        b="def nine(a, b, /, c, d, *e, f, g, h, **i): ...\n",
        cli__c="async def ten(a, b, c, d, e, f, g, h, i, j): ...\n",
    )
    many = house.many_parameters(modules)
    assert many == [Offender("shop.cli.c:1", "ten", 10), Offender("shop.b:1", "nine", 9)]
    assert [house.is_in_cli(each) for each in many] == [True, False]


def test_lines_are_added_up_by_top_package(tmp_path: Path) -> None:
    modules = tree(tmp_path, a=lines(2), b__c=lines(3), b__d__e=lines(4))
    assert house.n_lines(modules) == 9
    assert house.lines_of_packages(modules) == [Offender("shop.b", "", 7), Offender("shop", "", 2)]


def test_functions_are_as_long_as_they_stand_in_the_file(tmp_path: Path) -> None:
    text = "@decorated\ndef long():\n" + "    x = 1\n" * 41 + "def short(): ...\n"
    assert house.function_lengths(tree(tmp_path, a=text)) == [
        Offender("shop.a:2", "long", 42),
        Offender("shop.a:44", "short", 1),
    ]


def test_full_folders_have_thirteen_files_or_more(tmp_path: Path) -> None:
    full = {f"full__f{k}": "" for k in range(13)}
    fair = {f"fair__f{k}": "" for k in range(12)}
    modules = tree(tmp_path, full__door="", fair__door="", **full, **fair)
    assert house.full_folders(modules) == [Offender("shop.full", "", 13)]


def test_long_files_have_over_500_lines(tmp_path: Path) -> None:
    modules = tree(tmp_path, a=lines(501), b=lines(500))
    assert house.long_files(modules) == [Offender("shop.a", "", 501)]


def test_lonely_files_are_small_and_have_one_importer(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        lonely=lines(59),
        large=lines(60),
        shared=lines(2),
        user="import shop.lonely, shop.large, shop.shared\n",
        other="import shop.shared\n",
    )
    assert house.lonely_files(modules) == [Offender("shop.lonely", "imported by shop.user", 59)]


def test_a_file_behind_a_door_is_lonely_by_those_who_use_the_door(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        door="from shop.once import once\nfrom shop.twice import twice\n",
        once="once = 1\n",
        twice="twice = 1\n",
        user="from shop import once, twice\n",
        other="from shop import twice\n",
    )
    assert house.lonely_files(modules) == [Offender("shop.once", "imported by shop.user", 1)]


def test_long_classes_have_over_150_lines(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        a="class Long:\n" + "    x = 1\n" * 150,
        b="class Fair:\n" + "    x = 1\n" * 149,
    )
    assert house.long_classes(modules) == [Offender("shop.a:1", "Long", 151)]


def test_names_of_two_homes_are_found(tmp_path: Path) -> None:
    modules = tree(
        tmp_path,
        a__door="",
        b__door="",
        a__rows="class Plan: ...\nclass Row: ...\n",
        b__rows="class Plan: ...\n",
        b__plans="class Other: ...\n",
    )
    both = "in shop.a.rows, shop.b.rows"
    assert house.repeated_files(modules) == [Offender("rows", both, 2)]
    assert house.repeated_classes(modules) == [Offender("Plan", both, 2)]


def test_words_are_counted_as_whole_identifiers(tmp_path: Path) -> None:
    text = """
        def own(told, *, unfounded):
            found = how.told
            return "found", work(how=found)
    """
    assert house.uses_of_words(tree(tmp_path, a=text)) == [
        Offender("shop.a", "found", 2),
        Offender("shop.a", "how", 2),
        Offender("shop.a", "told", 2),
        Offender("shop.a", "own", 1),
    ]


def test_suppressions_are_comments(tmp_path: Path) -> None:
    text = 'a = 1  # noqa: E501\nb = 2  # type: ignore[x]  # noqa\nc = "# noqa"\n'
    assert [each.place for each in house.suppressions(tree(tmp_path, a=text))] == [
        "shop.a:1",
        "shop.a:2",
        "shop.a:2",
    ]


def test_the_table_names_offenders_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree(tmp_path, a="import shop.b\n", b="import shop.a\n")
    monkeypatch.setattr(house, "PACKAGES", (tmp_path / "shop",))
    monkeypatch.setattr(sys, "argv", ["house.py"])
    house.main()
    table = capsys.readouterr().out
    assert table.splitlines()[0].split() == ["import", "circles", "1"]
    assert "shop.a + shop.b" not in table
    monkeypatch.setattr(sys, "argv", ["house.py", "--list"])
    house.main()
    listed = capsys.readouterr().out
    assert listed.startswith(table)
    assert "import circles: 1\n  shop.a + shop.b\n" in listed


def test_the_product_and_its_adapters_are_what_is_measured() -> None:
    product, adapters = house.PACKAGES
    assert (product / "core" / "errors.py").is_file()
    assert "repairkit_adapters.pytorch" in {module.name for module in read_modules(adapters)}
