"""What is known of a program before it runs: values of constants and parameters."""

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lopt.export.linking import Program
from lopt.export.sources import bound_names, scope_of

Constants = Mapping[str, Any]


class Unknown(Exception):
    """An expression that is not known before the program runs."""


def value_of(node: ast.expr, known: Constants) -> Any:
    """The value of an expression of constants.

    Raises:
      Unknown: it is not one.
    """
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name) if name in known:
            return known[name]
        case ast.Tuple(elts=items):
            return tuple(value_of(item, known) for item in items)
        case ast.List(elts=items):
            return [value_of(item, known) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = [(k, v) for k, v in zip(keys, values, strict=True) if k is not None]
            if len(pairs) == len(keys):  # else some are of `**`
                return {value_of(k, known): value_of(v, known) for k, v in pairs}
        case ast.Call(func=ast.Name(id="tuple"), args=[items], keywords=[]):
            return tuple(value_of(items, known))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not value_of(operand, known)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -value_of(operand, known)
        case ast.BoolOp(op=op, values=values):
            return _logical(op, values, known)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _RULES:
            return _RULES[type(op)](value_of(left, known), value_of(right, known))
    raise Unknown


_RULES: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}


def _logical(op: ast.boolop, values: Sequence[ast.expr], known: Constants) -> Any:
    """`and` is known where one side is false, `or` where one is true."""
    decides = isinstance(op, ast.Or)
    unknown, value = False, not decides
    for node in values:
        try:
            value = value_of(node, known)
        except Unknown:
            unknown = True
            continue
        if bool(value) == decides:
            return value
    if unknown:
        raise Unknown
    return value


def is_known(node: ast.expr, known: Constants) -> bool:
    """Whether it has a value now."""
    try:
        value_of(node, known)
    except Unknown:
        return False
    return True


def functions(program: Program) -> dict[str, ast.FunctionDef]:
    """The global functions."""
    return {
        d.names[0]: d.node
        for d in program.definitions
        if isinstance(d.node, ast.FunctionDef)
    }


def constants(program: Program) -> dict[str, Any]:
    """Global names of known values."""
    found: dict[str, Any] = {}
    for definition in program.definitions:
        node = definition.node
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            if is_known(node.value, found):
                found[definition.names[0]] = value_of(node.value, found)
    return found


def known_in(node: ast.stmt, fixed: Constants) -> Constants:
    """What is known in a top-level statement: global constants, and parameters.

    A parameter is known by its default where that is all that it is ever given.
    """
    known = dict(fixed)
    if isinstance(node, ast.FunctionDef):
        names = getattr(node, "known", set())
        for arg, default in defaults_of(node).items():
            if arg in names:
                known[arg] = value_of(default, known)
    return known


def defaults_of(node: ast.FunctionDef) -> dict[str, ast.expr]:
    """The default of each parameter that has one."""
    positional = [*node.args.posonlyargs, *node.args.args]
    defaults = node.args.defaults
    last = positional[len(positional) - len(defaults) :]
    args = [*last, *node.args.kwonlyargs]
    pairs = zip(args, [*defaults, *node.args.kw_defaults], strict=True)
    return {arg.arg: default for arg, default in pairs if default is not None}


def rebound(node: ast.FunctionDef) -> set[str]:
    """Names that mean something else, too, somewhere in a function."""
    found = bound_names(node.body)
    for part in ast.walk(node):
        if part is not node:
            found |= scope_of(part) or set()
    return found


def read_in(node: ast.AST) -> set[str]:
    """The names that are read somewhere in a statement."""
    names = (n for n in ast.walk(node) if isinstance(n, ast.Name))
    return {n.id for n in names if not isinstance(n.ctx, ast.Store | ast.Del)}


def has_star(call: ast.Call) -> bool:
    """Whether `*` or `**` hides what a call gives."""
    stars = [a for a in call.args if isinstance(a, ast.Starred)]
    return bool(stars) or any(keyword.arg is None for keyword in call.keywords)


def without_doc(body: list[ast.stmt]) -> list[ast.stmt]:
    """A function's statements but its docstring."""
    match body:
        case [ast.Expr(value=ast.Constant()), *rest]:
            return rest
    return body


class Replaced(ast.NodeTransformer):
    """Expressions in place of names."""

    def __init__(self, values: Mapping[str, ast.expr]):
        self.values = values

    def visit_Name(self, node: ast.Name) -> Any:
        """What stands for it."""
        return self.values.get(node.id, node)
