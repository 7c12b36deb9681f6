"""A module's source in, its mutants out: the same module with one small fault each.

Left alone, because no test could or should tell: docstrings, annotations, the arguments of errors (their wording is free),
assertions and the `strict` of a zip (they state what cannot happen), and what only a type checker reads.
"""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

BOUNDARIES: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}
# Calls that do the same with their arguments in the other order.
SYMMETRIC = ("min", "max", "minimum", "maximum", "array_equal")
# Calls whose arguments are words for the user.
MESSAGES = ("Error", "Mismatch", "Exists", "Fault", "field_validator")
# Calls of which some arguments are.
WORDED = ("refuse", "refuse_any", "damage")


@dataclass(frozen=True)
class Mutant:
    """One fault. line: of the source, from 1; text: that line; change: "before → after"; tree: the whole faulty module."""

    module: str
    line: int
    text: str
    change: str
    tree: ast.Module


def mutants(module: str, source: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its source. module: its path."""
    tree = ast.parse(source)
    lines = source.splitlines()
    found: list[tuple[int, int, str, ast.Module]] = []
    for node, place in _places(tree, ()):
        for before, after, faulty in _faults(node):
            changed = copy.deepcopy(tree)
            _put(changed, place, faulty)
            found.append((node.lineno, node.col_offset, f"{before} → {after}", ast.fix_missing_locations(changed)))
    found.sort(key=lambda each: each[:2])
    result, met = [], Counter[tuple[int, str]]()
    for line, _, change, changed in found:
        met[line, change] += 1
        again = f" ({met[line, change]})" if met[line, change] > 1 else ""
        result.append(Mutant(module, line, lines[line - 1].strip(), change + again, changed))
    return result


Place = tuple[tuple[str, int | None], ...]


def _places(node: ast.AST, place: Place) -> Iterator[tuple[ast.expr | ast.stmt, Place]]:
    """Every node below that may be faulty, and the way to it: field names, and the index in a field that is a list."""
    for name, value in ast.iter_fields(node):
        if _left_alone(node, name):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_docstring(child) or isinstance(child, ast.Assert):
                continue
            if (
                isinstance(child, ast.Constant | ast.JoinedStr)
                and isinstance(node, ast.Call)
                and _name(node.func) in WORDED
            ):
                continue
            if isinstance(child, ast.If) and _name(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child, (*place, (name, index))
            yield from _places(child, (*place, (name, index)))


def _left_alone(node: ast.AST, field: str) -> bool:
    if field in ("annotation", "returns", "decorator_list"):
        return True
    if isinstance(node, ast.Call):
        return field in ("args", "keywords") and _name(node.func).endswith(MESSAGES)
    if isinstance(node, ast.keyword):
        return node.arg in ("strict", "description")
    if isinstance(node, ast.Subscript):
        return _name(node.value) == "Literal"
    return isinstance(node, ast.JoinedStr) and field == "format_spec"


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _put(tree: ast.Module, place: Place, new: ast.AST) -> None:
    node: ast.AST = tree
    for name, index in place[:-1]:
        node = getattr(node, name) if index is None else getattr(node, name)[index]
    name, index = place[-1]
    if index is None:
        setattr(node, name, new)
    else:
        getattr(node, name)[index] = new


def _faults(node: ast.expr | ast.stmt) -> Iterator[tuple[str, str, ast.AST]]:
    """(before, after, the node in its place) for each fault that one node can have."""
    if isinstance(node, ast.stmt):
        yield from ((_shown(node), after, new) for after, new in _of_statement(node))
        return
    for new in _of_expression(node):
        # The change alone: what stands in a slice or in a call's second argument, not the whole of it.
        yield _shown(node), _shown(new), new


def _shown(node: ast.AST) -> str:
    first = ast.unparse(node).splitlines()[0]
    return first if len(first) <= 100 else first[:99] + "…"


def _of_statement(node: ast.stmt) -> Iterator[tuple[str, ast.stmt]]:
    if isinstance(node, ast.Raise | ast.Delete | ast.AugAssign | ast.Expr):
        yield "(deleted)", ast.Pass()
    if isinstance(node, ast.Assign) and any(isinstance(each, ast.Attribute | ast.Subscript) for each in node.targets):
        yield "(deleted)", ast.Pass()
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        new = ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)
        yield _shown(new), new
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield "return None", ast.Return(ast.Constant(None))
    if isinstance(node, ast.Continue):
        yield "break", ast.Break()
    if isinstance(node, ast.Break):
        yield "continue", ast.Continue()
    if isinstance(node, ast.If):
        for value in (True, False):
            yield f"if {value}:", ast.If(ast.Constant(value), node.body, node.orelse)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _of_expression(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.Constant):
        yield from map(ast.Constant, _other_values(node.value))
    elif isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            ops = [*node.ops[:index], BOUNDARIES[type(operator)](), *node.ops[index + 1 :]]
            yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
        yield node.operand
    elif isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    elif isinstance(node, ast.Call):
        if _name(node.func) in OPPOSITES and isinstance(node.func, ast.Name):
            yield ast.Call(ast.Name(OPPOSITES[node.func.id], ast.Load()), node.args, node.keywords)
        if len(node.args) > 1 and _name(node.func) not in SYMMETRIC and not _name(node.func).endswith(MESSAGES):
            yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    elif isinstance(node, ast.Slice):
        yield from _other_bounds(node)
    elif isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
        yield from _without_conditions(node)


def _other_values(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1)
    elif isinstance(value, float):
        yield from (value * 2, value / 2) if value else (1.0,)
    elif isinstance(value, str | bytes):
        yield value + ("X" if isinstance(value, str) else b"X")


def _other_bounds(node: ast.Slice) -> Iterator[ast.Slice]:
    for name in ("lower", "upper"):
        bound = getattr(node, name)
        # A constant bound is changed as a constant.
        if bound is not None and not isinstance(bound, ast.Constant):
            for operator in (ast.Add(), ast.Sub()):
                new = copy.copy(node)
                setattr(new, name, ast.BinOp(bound, operator, ast.Constant(1)))
                yield new


def _without_conditions(node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> Iterator[ast.expr]:
    for index, part in enumerate(node.generators):
        if part.ifs:
            new = copy.copy(node)
            plain = ast.comprehension(part.target, part.iter, [], part.is_async)
            new.generators = [*node.generators[:index], plain, *node.generators[index + 1 :]]
            yield new
