"""The part of the package that some functions need, as one program of flat names.

A `Program` holds top-level statements of lopt's own source, each with the names that it
defines. In it every global name of the package is written `module:name`, wherever it is
used and however it was imported, so that it can be folded (folding.py) and written as
one file (python.py). Annotations of functions are left out: they are for lopt's reader.
"""

import ast
import copy
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = "lopt"
Function = ast.FunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp

CHECKED = {"BrokenRule", "CheckpointError", "ConfigError", "unknown_name"}
"""What is raised of options, which were checked when the optimizer was built."""


@dataclass
class Definition:
    """A top-level statement, and what belongs to it.

    Attributes:
      names: that it defines, as `module:name`.
      node: the statement, global names resolved.
      doc: the string below an assignment.
    """

    names: tuple[str, ...]
    node: ast.stmt
    doc: str | None = None


@dataclass
class Program:
    """Definitions in an order in which they can run, and the imports that they need."""

    definitions: list[Definition]
    imports: dict[str, ast.stmt] = field(default_factory=dict)

    def by_name(self) -> dict[str, Definition]:
        """The definition of each name."""
        return {name: d for d in self.definitions for name in d.names}


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
    imported: dict[str, tuple[str, str | None] | ast.stmt]


def linked(text: str) -> Program:
    """The program of a source text, and of all of the package that it reaches.

    Args:
      text: of a module; what it defines has names with nothing before the colon.
    """
    top = parsed("", text)
    found: dict[int, Definition] = {}
    imports: dict[str, ast.stmt] = {}
    todo = [("", name) for name in top.defined]
    while todo:
        owner, name = todo.pop()
        source = module(owner) if owner else top
        statement = source.defined[name]
        if id(statement) in found:
            continue
        resolver = _Resolver(source)
        node = resolver.visit(copy.deepcopy(statement))
        names = tuple(f"{owner}:{name}" for name in _defined_names(statement))
        doc = next(doc for own, doc in source.statements if own is statement)
        found[id(statement)] = Definition(names, node, doc)
        imports |= resolver.imports
        todo += sorted(resolver.used)
    statements = [s for source in _in_order(top) for s, _ in source.statements]
    return Program([found[id(s)] for s in statements if id(s) in found], imports)


def _in_order(top: Module) -> list[Module]:
    """The modules of the package that one imports, and it: below before above."""
    order: dict[str, Module] = {}

    def add(source: Module) -> None:
        for target in source.imported.values():
            if isinstance(target, tuple) and target[0] not in order:
                add(module(target[0]))
        order.setdefault(source.name, source)

    add(top)
    return list(order.values())


@cache
def module(name: str) -> Module:
    """A module of the package, by its dotted name."""
    return parsed(name, _path(name).read_text(encoding="utf-8"))


def parsed(name: str, source: str) -> Module:
    """A module from its text."""
    tree = _Stripped().visit(_with_comments(ast.parse(source), source))
    statements: list[tuple[ast.stmt, str | None]] = []
    imported: dict[str, tuple[str, str | None] | ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= _imports(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if statements:  # else it is the module's own
                statements[-1] = statements[-1][0], node.value.value
        else:
            statements.append((node, None))
    defined = {name: node for node, _ in statements for name in _defined_names(node)}
    return Module(name, ast.get_docstring(tree) or "", statements, defined, imported)


def _path(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, name
    return Path(spec.origin)


def _imports(
    node: ast.Import | ast.ImportFrom,
) -> Iterator[tuple[str, tuple[str, str | None] | ast.stmt]]:
    for alias in node.names:
        local = alias.asname or alias.name
        if isinstance(node, ast.Import):
            yield local, ast.Import([alias])
        elif (node.module or "").partition(".")[0] != PACKAGE:
            yield local, ast.ImportFrom(node.module, [alias], 0)
        elif _is_module(f"{node.module}.{alias.name}"):
            yield local, (f"{node.module}.{alias.name}", None)
        else:
            yield local, (str(node.module), alias.name)


@cache
def _is_module(name: str) -> bool:
    folder = _path(PACKAGE).parent.joinpath(*name.split(".")[1:])
    return folder.is_dir() or folder.with_suffix(".py").is_file()


def _defined_names(node: ast.stmt) -> list[str]:
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
                    rest = lines[item.end_lineno - 1].encode()[item.end_col_offset :]
                    item.comment = rest.decode().strip()
    return tree


class _Stripped(ast.NodeTransformer):
    """What an update needs: no annotations of functions, no errors of options, no theta.

    A learned optimizer is then its `opt_fn` alone.
    """

    def __init__(self):
        self.in_class = False

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        before, self.in_class = self.in_class, False
        self.generic_visit(node)
        self.in_class = before
        node.returns = None
        for arg in all_args(node.args):
            arg.annotation = None
        node.body = node.body or [ast.Pass()]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        before, self.in_class = self.in_class, True
        self.generic_visit(node)
        self.in_class = before
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        self.generic_visit(node)
        if self.in_class:
            return node
        return ast.Assign([node.target], node.value) if node.value else None

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        is_optimizer = getattr(node.func, "id", "") == "LearnedOptimizer"
        return node.args[1] if is_optimizer else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
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

    def visit_For(self, node: ast.For) -> ast.stmt | None:
        self.generic_visit(node)
        return node if node.body else None


class _Resolver(ast.NodeTransformer):
    """Writes each global name of the package as `module:name`.

    Attributes:
      used: those names.
      imports: statements that other global names need.
    """

    def __init__(self, source: Module):
        self.source = source
        self.scopes: list[set[str]] = []
        self.in_annotation = False
        self.used: set[tuple[str, str]] = set()
        self.imports: dict[str, ast.stmt] = {}

    def visit(self, node: ast.AST) -> ast.AST:
        names = scope_of(node)
        if names is None:
            return super().visit(node)
        self.scopes.append(names)
        result = super().visit(node)
        self.scopes.pop()
        return result

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if any(node.id in names for names in self.scopes):
            return node
        target = self._origin(self.source, node.id)
        return self._name(target, node) if isinstance(target, tuple) else node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        value = node.value
        if isinstance(value, ast.Name) and not any(value.id in s for s in self.scopes):
            target = self.source.imported.get(value.id)
            if isinstance(target, tuple) and target[1] is None:
                origin = self._origin(module(target[0]), node.attr)
                if isinstance(origin, tuple):
                    return self._name(origin, node)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """A field of a class."""
        self.in_annotation = True
        node.annotation = self.visit(node.annotation)
        self.in_annotation = False
        node.value = self.visit(node.value) if node.value else None
        return node

    def _name(self, origin: tuple[str, str], node: ast.expr) -> ast.expr:
        if self.in_annotation:
            home = module(origin[0])
            alias = home.defined[origin[1]]
            if isinstance(alias, ast.Assign):
                return self._spelled_out(home, alias.value)
        self.used.add(origin)
        return ast.Name(":".join(origin), node.ctx)

    def _spelled_out(self, home: Module, alias: ast.expr) -> ast.expr:
        """What a type is called in other packages."""
        if not isinstance(alias, ast.Name | ast.Attribute):
            home, alias = (
                parsed("", "from typing import Any"),
                ast.Name("Any", ast.Load()),
            )
        resolver = _Resolver(home)
        spelled = resolver.visit(copy.deepcopy(alias))
        self.imports |= resolver.imports
        return spelled

    def _origin(self, source: Module, name: str) -> tuple[str, str] | None:
        """Where a global name is defined; None: outside of the package."""
        if name in source.defined:
            return source.name, name
        target = source.imported.get(name)
        if isinstance(target, tuple) and target[1] is not None:
            return self._origin(module(target[0]), target[1])
        if isinstance(target, ast.stmt):
            self.imports[ast.unparse(target)] = target
        return None


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


def bound_names(nodes: list[ast.stmt] | list[ast.expr]) -> set[str]:
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
