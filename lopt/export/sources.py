"""Modules of the package as syntax: what they define, and what they import."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lopt

PACKAGE = "lopt"

Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

Imported = tuple[str, str | None] | ast.Import | ast.ImportFrom
COMMENT = "comment"
"""The attribute of a field that holds the comment behind it."""
CHECKED = {
    "BrokenRule", "CheckpointError", "ConfigError", "ValueError", "_foreign",
    "unknown_name",
}  # fmt: skip
"""What is raised of options, which were checked when the optimizer was built, and of
values; what a caller forgets, a `TypeError`, is still told."""


@dataclass(frozen=True)
class Module:
    """A module's source.

    Attributes:
      name: dotted.
      doc: its docstring.
      statements: the top-level ones that define something, with the strings below.
      defined: the statement of each name.
      imported: modules ("lopt.mup", None), their names ("lopt.mup", "infer_specs"), and
        imports of other packages.
    """

    name: str
    doc: str
    statements: list[tuple[ast.stmt, str | None]]
    defined: dict[str, ast.stmt]
    imported: dict[str, Imported]


@cache
def module(name: str) -> Module:
    """A module of the package, by its dotted name."""
    return parsed(name, _path(name).read_text(encoding="utf-8"))


def parsed(name: str, source: str) -> Module:
    """A module from its text."""
    tree = _Stripped().visit(_with_comments(ast.parse(source), source))
    statements: list[tuple[ast.stmt, str | None]] = []
    imported: dict[str, Imported] = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= _imports(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if statements:  # else it is the module's own
                statements[-1] = statements[-1][0], str(node.value.value)
        else:
            statements.append((node, None))
    defined = {name: node for node, _ in statements for name in defined_names(node)}
    return Module(name, ast.get_docstring(tree) or "", statements, defined, imported)


def _path(name: str) -> Path:
    """Where a module is, found without importing it: torch need not be there."""
    folder = Path(lopt.__file__).parent.joinpath(*name.split(".")[1:])
    return folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")


def _imports(
    node: ast.Import | ast.ImportFrom,
) -> Iterator[tuple[str, Imported]]:
    for alias in node.names:
        local = alias.asname or alias.name
        if isinstance(node, ast.Import):
            yield local, ast.Import([alias])
        elif (node.module or "").partition(".")[0] != PACKAGE:
            yield local, ast.ImportFrom(node.module, [alias], 0)
        elif _path(f"{node.module}.{alias.name}").is_file():
            yield local, (f"{node.module}.{alias.name}", None)
        else:
            yield local, (str(node.module), alias.name)


def defined_names(node: ast.stmt) -> list[str]:
    """The global names that a top-level statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return sorted(bound_names([node]))


def _with_comments(tree: ast.Module, source: str) -> ast.Module:
    """The tree, each field of a class with the comment behind it."""
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.AnnAssign):
                    line = lines[(item.end_lineno or 0) - 1].encode()
                    comment = line[item.end_col_offset :].decode().strip()
                    setattr(item, COMMENT, comment)
    return tree


class _Stripped(ast.NodeTransformer):
    """What an update needs: no annotations of functions, no errors of values, no theta.

    A learned optimizer is then its `opt_fn` alone.
    """

    def __init__(self):
        self.in_class = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        before, self.in_class = self.in_class, False
        self.generic_visit(node)
        self.in_class = before
        node.returns = None
        for arg in all_args(node.args):
            arg.annotation = None
        node.body = node.body or [ast.Pass()]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> Any:
        before, self.in_class = self.in_class, True
        self.generic_visit(node)
        self.in_class = before
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        self.generic_visit(node)
        if self.in_class:
            return node
        return ast.Assign([node.target], node.value) if node.value else None

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        is_optimizer = getattr(node.func, "id", "") == "LearnedOptimizer"
        return node.args[1] if is_optimizer else node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        self.generic_visit(node)
        return node.value if node.attr == "opt_fn" else node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        last = node.body[-1] if node.body else None
        if isinstance(last, ast.Raise) and isinstance(last.exc, ast.Call):
            function = last.exc.func
            if isinstance(function, ast.Name) and function.id in CHECKED:
                return node.orelse
        return node if node.body else None

    def visit_For(self, node: ast.For) -> Any:
        self.generic_visit(node)
        return node if node.body else None


def all_args(args: ast.arguments) -> list[ast.arg]:
    """All parameters of a function."""
    found = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return found + [arg for arg in (args.vararg, args.kwarg) if arg is not None]


def scope_of(node: ast.AST) -> set[str] | None:
    """The names that a function or a comprehension binds; None for other nodes."""
    if isinstance(node, ast.FunctionDef):
        return {a.arg for a in all_args(node.args)} | bound_names(node.body)
    if isinstance(node, ast.Lambda):
        return {a.arg for a in all_args(node.args)}
    if isinstance(node, Comprehension):
        return bound_names([g.target for g in node.generators])
    return None


def bound_names(nodes: Sequence[ast.AST]) -> set[str]:
    """Names that statements or targets bind, those of scopes inside left out."""
    found: set[str] = set()
    todo: list[ast.AST] = list(nodes)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if not isinstance(node, ast.Lambda | Comprehension):
            todo += ast.iter_child_nodes(node)
    return found
