"""Who may know whom: the import order of the design, and what may stand where."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddpm"

# From the top down: a room may import rooms of later rows, and itself; not its neighbours in a row.
ORDER = [
    {"scripts", "notebooks", "tests"},
    {"ablation", "probe"},
    {"analysis"},
    {"training"},
    {"evaluation"},
    {"exchange"},
    {"pipeline"},
    {"sampling"},
    {"models", "objective"},
    {"schedule", "randomness"},
]
# Leaves: what each may import, and from which row of ORDER upwards it may be imported.
LEAVES = {
    "names": (set(), 9),
    "divergence": (set(), 7),
    "bundle": (set(), 6),
    "manifest": (set(), 5),
    "processes": (set(), 5),
    "config": (set(), 5),
    "study": ({"config", "names"}, 4),
    "commands": ({"config"}, 4),
    "parsing": ({"commands", "config", "names", "study"}, 4),
    "data": ({"names"}, 4),
}
OUTSIDERS = {
    "jsonargparse": {"ddpm/parsing/"},
    "docstring_parser": {"ddpm/parsing/"},
    "yaml": {"ddpm/parsing/", "ddpm/config/sections.py"},
    "accelerate": {
        "ddpm/training/",
        "ddpm/evaluation/",
        "ddpm/ablation/",
        "ddpm/probe/",
        "ddpm/processes.py",
        "ddpm/io/drawing.py",
    },
    "wandb": {"ddpm/training/"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "ddpm" else parts[0]


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all modules that a file imports, inside functions too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            # `from ddpm import config` names a module as well as `from ddpm.config.sections import Config`.
            yield from (f"ddpm.{alias.name}" for alias in node.names) if module == "ddpm" else (module,)


def rooms_imported(path: Path) -> set[str]:
    found = {name.split(".")[1] for name in imports(path) if name.startswith("ddpm.")}
    return found - {"__version__"}


def row(name: str) -> int:
    return next(i for i, rooms in enumerate(ORDER) if name in rooms)


def may_import(importer: str) -> set[str]:
    if importer in LEAVES:
        return LEAVES[importer][0] | {importer}
    below = set().union(*ORDER[row(importer) + 1 :])
    return below | {importer} | {leaf for leaf, (_, lowest) in LEAVES.items() if row(importer) <= lowest}


def test_every_room_has_a_place() -> None:
    known = set().union(*ORDER) | LEAVES.keys() | {"__init__"}
    assert {room(path) for path in MODULES} <= known


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=place)
def test_imports_go_one_way(path: Path) -> None:
    if room(path) == "__init__":
        assert not rooms_imported(path)
    else:
        assert rooms_imported(path) <= may_import(room(path))


def test_the_order_itself() -> None:
    assert may_import("models") == {"models", "schedule", "randomness", "names"}
    assert not [name for name in ("models", "schedule", "objective", "sampling") if "config" in may_import(name)]
    assert may_import("data") == {"data", "names"} and may_import("config") == {"config"}
    assert "training" not in may_import("evaluation")
    assert not [leaf for leaf in LEAVES if leaf not in may_import("scripts")]


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=place)
def test_outside_packages_stay_where_they_belong(path: Path) -> None:
    for name in imports(path):
        allowed = OUTSIDERS.get(name.split(".")[0])
        assert allowed is None or any(place(path).startswith(a) for a in allowed), name


@pytest.mark.parametrize("path", MODULES, ids=place)
def test_the_package_does_not_know_what_is_above_it(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"scripts", "tests", "notebooks"}


def test_tests_do_not_import_each_other() -> None:
    names = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    for path in (ROOT / "tests").rglob("*.py"):
        assert not {part for name in imports(path) for part in name.split(".")[:1]} & (names | {"tests"}), place(path)


def test_no_module_is_named_after_nothing() -> None:
    for path in [*MODULES, *(p for p in PACKAGE.rglob("*") if p.is_dir())]:
        assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}, place(path)


def test_the_package_defines_its_version_and_nothing_else() -> None:
    docstring, *body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(node).split(" = ")[0] for node in body] == ["__version__"]


@pytest.mark.parametrize("path", SCRIPTS, ids=place)
def test_scripts_parse_and_call(path: Path) -> None:
    docstring, *body = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    *head, main, guard = body
    assert all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in head)
    assert isinstance(main, ast.FunctionDef) and main.name == "main"
    assert ast.unparse(guard) == "if __name__ == '__main__':\n    main()"
    inside = [node for node in ast.walk(main) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Lambda))]
    assert inside == [main]
    assert "torch" not in {name.split(".")[0] for name in imports(path)}
