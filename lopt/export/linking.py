"""The part of the package that some functions need, as one program of flat names.

A `Program` holds top-level statements of lopt's own source, each with the names that it
defines. In it every global name of the package is written `module:name`, wherever it is
used and however it was imported, so that it can be folded (folding.py) and written as
one file (python.py). Annotations of functions are left out: they are for lopt's reader.
"""

import ast
import copy
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from lopt.export.sources import Module, defined_names, module, parsed, scope_of


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
    imports: dict[str, ast.Import | ast.ImportFrom] = field(default_factory=dict)

    def by_name(self) -> dict[str, Definition]:
        """The definition of each name."""
        return {name: d for d in self.definitions for name in d.names}


def linked(text: str, instead: Collection[str] = ()) -> Program:
    """The program of a source text, and of all of the package that it reaches.

    Args:
      text: of a module; what it defines has names with nothing before the colon.
      instead: names of the package that the text defines in its place.
    """
    top = parsed("", text)
    found: dict[int, Definition] = {}
    imports: dict[str, ast.Import | ast.ImportFrom] = {}
    todo = [("", name) for name in top.defined]
    while todo:
        owner, name = todo.pop()
        source = module(owner) if owner else top
        statement = source.defined[name]
        if id(statement) in found:
            continue
        resolver = _Resolver(source, instead)
        node = resolver.visit(copy.deepcopy(statement))
        names = tuple(f"{owner}:{name}" for name in defined_names(statement))
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


class _Resolver(ast.NodeTransformer):
    """Writes each global name of the package as `module:name`.

    Attributes:
      used: those names.
      imports: statements that other global names need.
    """

    def __init__(self, source: Module, instead: Collection[str] = ()):
        self.source, self.instead = source, instead
        self.scopes: list[set[str]] = []
        self.in_annotation = False
        self.used: set[tuple[str, str]] = set()
        self.imports: dict[str, ast.Import | ast.ImportFrom] = {}

    def visit(self, node: ast.AST) -> Any:
        names = scope_of(node)
        if names is None:
            return super().visit(node)
        self.scopes.append(names)
        result = super().visit(node)
        self.scopes.pop()
        return result

    def visit_Name(self, node: ast.Name) -> Any:
        if any(node.id in names for names in self.scopes):
            return node
        target = self._origin(self.source, node.id)
        return self._name(target, node) if isinstance(target, tuple) else node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        value = node.value
        if isinstance(value, ast.Name) and not any(value.id in s for s in self.scopes):
            target = self.source.imported.get(value.id)
            if isinstance(target, tuple) and target[1] is None:
                origin = self._origin(module(target[0]), node.attr)
                if isinstance(origin, tuple):
                    return self._name(origin, node)
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        """A field of a class."""
        self.in_annotation = True
        node.annotation = self.visit(node.annotation)
        self.in_annotation = False
        node.value = self.visit(node.value) if node.value else None
        return node

    def _name(self, origin: tuple[str, str], node: ast.Name | ast.Attribute) -> Any:
        if self.in_annotation:
            home = module(origin[0])
            alias = home.defined[origin[1]]
            if isinstance(alias, ast.Assign):
                return self._spelled_out(home, alias.value)
        self.used.add(origin)
        return ast.Name(":".join(origin), node.ctx)

    def _spelled_out(self, home: Module, alias: ast.expr) -> Any:
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
            replaced = f"{source.name}:{name}" in self.instead
            return "" if replaced else source.name, name
        target = source.imported.get(name)
        if isinstance(target, tuple) and target[1] is not None:
            return self._origin(module(target[0]), target[1])
        if isinstance(target, ast.Import | ast.ImportFrom):
            self.imports[ast.unparse(target)] = target
        return None
