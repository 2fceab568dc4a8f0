"""A program, simplified by what is known before it runs.

What a parameter is in all calls is known; so is which branch is then taken, which entry
of a table is looked up, which functions, methods and variables are of no use any more,
and that a check of constants has passed. All of it follows from the root function, which
calls a factory with its options. Nothing is computed: expressions stay as lopt has them.
"""

import ast
from collections.abc import Collection
from typing import Any

from lopt.export.branches import branches, tables
from lopt.export.calls import identities, inlined, once, parameters
from lopt.export.constants import functions, read_in
from lopt.export.linking import Program
from lopt.export.sources import bound_names


def folded(program: Program, root: str, theta: Collection[str] = ()) -> Program:
    """The program, as much simplified as is known, and what its root needs of it.

    Args:
      program: of the functions that are reached.
      root: the name of what is called from outside.
      theta: the names at the top of the weights.
    """
    for definition in program.definitions:
        definition.node = _Weights(theta).visit(definition.node)
    before = ""
    while before != (now := _text(program)):
        before = now
        for fold in (parameters, branches, tables, once, identities, inlined):
            fold(program)
        _unused(program, root)
        _unreached(program, root)
    return program


class _Weights(ast.NodeTransformer):
    """Says whether `theta` has what it is asked for."""

    def __init__(self, names: Collection[str]):
        self.names = names

    def visit_Compare(self, node: ast.Compare) -> Any:
        match node:
            case ast.Compare(
                ast.Constant(value=name),
                [ast.In()],
                [ast.Name(id="theta") | ast.Attribute(attr="theta")],
            ):
                return ast.Constant(name in self.names)
        return self.generic_visit(node)


def _text(program: Program) -> str:
    return "\n".join(ast.dump(d.node) for d in program.definitions)


def _unused(program: Program, root: str) -> None:
    """Leaves out variables, functions and known parameters that are not read."""
    for definition in program.definitions:
        if isinstance(definition.node, ast.ClassDef):
            for method in definition.node.body:
                if isinstance(method, ast.FunctionDef):
                    _Unused(read_in(method)).visit(method)
    for name, node in functions(program).items():
        if name != root:
            _Unused(read_in(node)).visit(node)
            known = getattr(node, "known", set())
            for arg in [a for a in node.args.kwonlyargs if a.arg in known]:
                if arg.arg not in read_in(node):
                    index = node.args.kwonlyargs.index(arg)
                    del node.args.kwonlyargs[index], node.args.kw_defaults[index]


class _Unused(ast.NodeTransformer):
    def __init__(self, read: set[str]):
        self.read, self.depth = read, 0

    def visit_Delete(self, node: ast.Delete) -> Any:
        """Of what is not read: a habit of lopt's."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if self.depth and node.name not in self.read:
            return None
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node

    def visit_Assign(self, node: ast.Assign) -> Any:
        return self._kept(node, node.targets)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        return self._kept(node, [node.target])

    def _kept(self, node: ast.stmt, given: list[ast.expr]) -> ast.stmt | None:
        targets = bound_names(given)
        given = [x for t in given for x in getattr(t, "elts", [t])]
        is_plain = all(isinstance(t, ast.Name) for t in given)
        return None if is_plain and not targets & self.read else node


def _unreached(program: Program, root: str) -> None:
    """Keeps what the root reaches, and of classes what someone asks for."""
    definitions = program.by_name()
    attributes = {
        node.attr
        for d in program.definitions
        for node in ast.walk(d.node)
        if isinstance(node, ast.Attribute)
    }
    for definition in program.definitions:
        if isinstance(definition.node, ast.ClassDef):
            definition.node.body = [
                item
                for item in definition.node.body
                if not isinstance(item, ast.FunctionDef)
                or item.name in attributes
                or (definition.node.bases and item.name[0] != "_")  # its base calls it
                or item.name.startswith("__")
            ]
    reached, todo = set(), [root]
    while todo:
        name = todo.pop()
        if name in definitions and name not in reached:
            reached |= {*definitions[name].names}
            todo += read_in(definitions[name].node)
    program.definitions = [d for d in program.definitions if reached & {*d.names}]
