"""The import order of the package, where outside packages are used, and the names of files and definitions."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ddpm"

# Each part imports only parts further to the right. Parts between the same two arrows do not import each other.
ORDER = """
scripts -> cli -> lab -> training -> evaluation -> io -> pipeline -> single_file
-> data, models, diffusion, config -> randomness, atomic, cache, processes, devices, names, text_encoding
-> heartbeat, launch_checks, float64 -> one_line
"""
RANK = {part: i for i, parts in enumerate(" ".join(ORDER.split()).split(" -> ")) for part in parts.split(", ")}

# The only parts that may import a library, where that is restricted.
USERS = {
    "accelerate": {"lab", "training", "evaluation", "io", "processes"},
    "docstring_parser": {"cli"},
    "matplotlib": {"lab", "evaluation", "io"},
    "triton": {"models"},
    "wandb": {"training"},
    "yaml": {"config"},
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "managers", "misc"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def scripts() -> list[Path]:
    return sorted((ROOT / "scripts").glob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    """Return the part of ORDER that a file belongs to; `__init__` for ddpm/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "ddpm" else parts[0]


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names of all modules that a file imports, also inside functions and with import_module."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            # `from ddpm import pipeline` names a module as well as `from ddpm.pipeline import encode` does.
            yield from (f"ddpm.{alias.name}" for alias in node.names) if module == "ddpm" else (module,)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (value.value for value in node.args if isinstance(value, ast.Constant))


def parts_imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("ddpm.")} - {"__version__"}


def public_definitions(path: Path) -> set[str]:
    """Return the names of a module's functions, classes and constants, without those with an underscore."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(target.id for target in targets if isinstance(target, ast.Name))
    return {name for name in names if not name.startswith("_")}


def duplicates(files_of: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: files for name, files in files_of.items() if len(files) > 1}


def test_imports_follow_the_order() -> None:
    assert not {part_of(path) for path in modules()} - RANK.keys() - {"__init__"}
    wrong = []
    for path in [*modules(), *scripts()]:
        part = part_of(path)
        allowed = {p for p, rank in RANK.items() if part != "__init__" and (rank > RANK[part] or p == part)}
        wrong += [f"{name_of(path)} imports ddpm.{other}" for other in sorted(parts_imported(path) - allowed)]
        outside = {name.split(".")[0] for name in imports(path)} & {"scripts", "tests", "notebooks"}
        wrong += [f"{name_of(path)} imports {other}" for other in sorted(outside)]
    assert not wrong


def test_the_documents_state_the_same_order() -> None:
    for document in ("docs/design.md", "CONTRIBUTING.md"):
        assert " ".join(ORDER.split()) in " ".join((ROOT / document).read_text().split()), document


def test_libraries_are_imported_only_where_they_belong() -> None:
    wrong = []
    for path in [*modules(), *scripts()]:
        libraries = {name.split(".")[0] for name in imports(path)} & USERS.keys()
        wrong += [f"{name_of(path)} imports {name}" for name in sorted(libraries) if part_of(path) not in USERS[name]]
    assert not wrong


def test_file_names_are_telling_and_unique() -> None:
    """A command may share its name with the module that it calls: cli/train.py and training/train.py."""
    everything = [path for path in PACKAGE.rglob("*") if path.is_dir() or path.suffix == ".py"]
    assert not [name_of(path) for path in everything if path.stem in VAGUE]
    files_of = defaultdict(list)
    for path in modules():
        if path.name != "__init__.py" and part_of(path) != "cli":
            files_of[path.name].append(name_of(path))
    assert duplicates(files_of) == {}


def test_no_public_name_is_defined_twice() -> None:
    """Every command has a `main`."""
    files_of = defaultdict(list)
    for path in modules():
        for name in public_definitions(path) - ({"main"} if part_of(path) == "cli" else set()):
            files_of[name].append(name_of(path))
    assert duplicates(files_of) == {}


def test_scripts_only_call_their_command() -> None:
    """Python code of a command is in the package, under the name of the script."""
    wrong = []
    for path in scripts():
        docstring, *code = ast.parse(path.read_text()).body
        expected = f"from ddpm.cli.{path.stem} import main\nif __name__ == '__main__':\n    main()"
        if not isinstance(docstring, ast.Expr) or "\n".join(map(ast.unparse, code)) != expected:
            wrong.append(name_of(path))
    assert not wrong


def test_the_package_defines_its_version_and_nothing_else() -> None:
    docstring, *body = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert [ast.unparse(node).split(" = ")[0] for node in body] == ["__version__"]


def test_tests_do_not_import_each_other() -> None:
    """They share fixtures, and helper modules whose names do not start with `test_`."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    names = {path.stem for path in files if path.stem.startswith("test_")} | {"conftest", "tests"}
    assert not [name_of(path) for path in files if {name.split(".")[0] for name in imports(path)} & names]
