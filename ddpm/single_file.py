"""Join modules of this package into one file that does not need the package, to be saved with the weights.

diffusers loads the code of a model from a single file. It starts with the imports from other packages; the body of each
module follows the modules that it imports from this package.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

HEADER = '''"""{title}

From adagn-ddpm {version} (Apache-2.0): {modules}.
"""
'''


@cache
def bundle(module: str, title: str, version: str) -> str:
    """Return the source of a module together with all modules that it imports from its package.

    Args:
        module: dotted name, such as `ddpm.models.unet`.
        title: first line of the file's docstring.
        version: version of the package, for the docstring.

    Returns:
        Source code that imports from other packages only.
    """
    package = module.split(".")[0]
    order: list[str] = []
    _visit(module, package, order)
    outside: dict[str, None] = {}
    bodies: list[str] = []
    defined: dict[str, str] = {}
    for name in order:
        source = _path(name).read_text()
        lines = source.splitlines()
        for node in reversed(tree := ast.parse(source).body):
            is_docstring = node is tree[0] and isinstance(node, ast.Expr)
            if is_docstring or isinstance(node, ast.Import | ast.ImportFrom):
                lines[node.lineno - 1 : node.end_lineno] = []
        for node in tree:
            if isinstance(node, ast.Import | ast.ImportFrom) and not _inside(node, package):
                outside[ast.unparse(node)] = None
            for symbol, origin in _defined(node, name):
                assert defined.setdefault(symbol, origin) == origin, f"{symbol}: {defined[symbol]} and {origin}"
        bodies.append("\n".join(lines).strip("\n"))
    head = HEADER.format(title=title, version=version, modules=", ".join(order))
    imports = sorted(outside, key=lambda line: (line.startswith("from"), line))
    return "\n\n\n".join([head + "\n" + "\n".join(imports), *bodies]) + "\n"


def _path(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, module
    return Path(spec.origin)


def _inside(node: ast.Import | ast.ImportFrom, package: str) -> bool:
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] == package
    return any(alias.name.split(".")[0] == package for alias in node.names)


def _visit(module: str, package: str, order: list[str]) -> None:
    """Append a module to `order` after the modules that it imports."""
    for node in ast.parse(_path(module).read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and _inside(node, package) and node.module not in order:
            _visit(node.module, package, order)
    order.append(module)


def _defined(node: ast.stmt, module: str) -> list[tuple[str, str]]:
    """Return the names that a statement defines, each with its origin."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        source = getattr(node, "module", None) or ""
        if source.split(".")[0] == module.split(".")[0]:
            return []           # defined where it is imported from
        return [(alias.asname or alias.name.split(".")[0], f"{source} {alias.name}") for alias in node.names]
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [(node.name, module)]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        return [(name, module) for name in names]
    return []
