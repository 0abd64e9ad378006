"""Which variables a template can't do without, and which the service gives itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jinja2 import nodes

#: Every template has them.
GIVEN = frozenset({"unsubscribe_url"})

_GUARDING_FILTERS = frozenset({"default", "d"})
_GUARDING_TESTS = frozenset({"defined", "undefined"})


def completed(data: Mapping[str, object], *, unsubscribe_url: str | None = None) -> Mapping[str, object]:
    """The caller's data and what the service gives: `unsubscribe_url`, empty where nothing is to be ended.

    Where the service has no link, the caller's own may stand in its place.
    """
    if unsubscribe_url is not None:
        return {**data, "unsubscribe_url": unsubscribe_url}
    return {"unsubscribe_url": "", **data}


def required_names(tree: nodes.Template) -> set[str]:
    """Top-level names that are read somewhere without a guard: `default`, or an if with `is defined` around."""
    return set(_reads(tree.body, GIVEN | {"loop"}))


def _reads(statements: Sequence[nodes.Node], known: frozenset[str]) -> Iterator[str]:
    """Names read in a block that are not in `known`; `set` makes a name known to what follows."""
    for node in statements:
        if isinstance(node, nodes.For):
            yield from _free(node.iter, known)
            inner = known | _targets(node.target)
            yield from _reads([*([node.test] if node.test else []), *node.body], inner)
            yield from _reads(node.else_, known)
        elif isinstance(node, nodes.With):
            yield from (name for value in node.values for name in _free(value, known))
            yield from _reads(node.body, known.union(*map(_targets, node.targets)))
        elif isinstance(node, nodes.Assign):
            yield from _free(node.node, known)
            known |= _targets(node.target)
        elif isinstance(node, nodes.If):
            yield from _branches(node, known)
        else:
            yield from _free(node, known)


def _branches(node: nodes.If, known: frozenset[str]) -> Iterator[str]:
    yield from _free(node.test, known)
    guarded = known | _guarded_by(node.test)
    for body in (node.body, node.elif_, node.else_):
        yield from _reads(body, guarded)


def _free(node: nodes.Node, known: frozenset[str]) -> Iterator[str]:
    """Names that an expression reads."""
    if isinstance(node, nodes.Name):
        if node.name not in known:
            yield node.name
        return
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
        known |= {node.node.name}
    known |= _guarded_here(node)
    for child in node.iter_child_nodes():
        yield from _free(child, known)


def _guarded_here(node: nodes.Node) -> frozenset[str]:
    """Names that may be missing within this expression."""
    guards = _GUARDING_FILTERS if isinstance(node, nodes.Filter) else _GUARDING_TESTS
    if isinstance(node, (nodes.Filter, nodes.Test)) and node.name in guards and node.node is not None:
        return _root_of(node.node)
    return _guarded_by(node) if isinstance(node, (nodes.CondExpr, nodes.And, nodes.Or)) else frozenset()


def _root_of(node: nodes.Node) -> frozenset[str]:
    while isinstance(node, (nodes.Getattr, nodes.Getitem)):
        node = node.node
    return frozenset({node.name}) if isinstance(node, nodes.Name) else frozenset()


def _guarded_by(test: nodes.Node) -> frozenset[str]:
    """Names that a condition asks about with `is defined`."""
    found = [test, *test.find_all(nodes.Test)]
    return frozenset().union(
        *(_root_of(node.node) for node in found if isinstance(node, nodes.Test) and node.name in _GUARDING_TESTS)
    )


def _targets(node: nodes.Node) -> frozenset[str]:
    return frozenset(name.name for name in [node, *node.find_all(nodes.Name)] if isinstance(name, nodes.Name))
