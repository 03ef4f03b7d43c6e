"""One onnx_ir model becomes another in place: its graph, inputs, outputs and values stay themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir


def become(model: ir.Model, other: ir.Model) -> None:
    """``model`` gets the nodes and tensors of ``other``, which is used up.

    The Model and its Graph stay the same objects, and so does every value of the graph whose name
    ``other`` has too: inputs, outputs, initialisers, results of nodes. Nodes are new.
    """
    graph, source = model.graph, other.graph
    if [v.name for v in graph.inputs] != [v.name for v in source.inputs]:
        raise ValueError("the models have inputs of other names")
    outputs = list(source.outputs)
    kept = _emptied(graph)
    nodes, initialisers = list(source), list(source.initializers.values())
    source.outputs.clear()
    source.initializers.clear()
    source.remove(nodes)
    stand = {v: _written(kept.get(str(v.name)), v) for v in (*source.inputs, *initialisers)}
    for node in nodes:
        graph.append(_moved(node, stand, kept))
    for value in initialisers:
        graph.register_initializer(stand[value])
    graph.outputs.extend(stand[v] for v in outputs)
    graph.opset_imports.clear()
    graph.opset_imports.update(source.opset_imports)
    graph.metadata_props.update(source.metadata_props)
    model.ir_version = other.ir_version
    model.functions.clear()
    model.functions.update(other.functions)


def _emptied(graph: ir.Graph) -> dict[str, ir.Value]:
    """Take a graph apart down to its inputs; its values by name, free to be used again."""
    values = [*graph.initializers.values(), *(v for node in graph for v in node.outputs)]
    nodes = list(graph)
    graph.outputs.clear()
    graph.initializers.clear()
    for node in graph.all_nodes():  # those of subgraphs read values of this one
        for i in range(len(node.inputs)):
            node.replace_input_with(i, None)
    graph.remove(nodes)
    for node in nodes:
        node.resize_outputs(0)
    return {str(v.name): v for v in (*values, *graph.inputs)}


def _moved(node: ir.Node, stand: dict[ir.Value, ir.Value], kept: Mapping[str, ir.Value]) -> ir.Node:
    """The node with values of the kept graph in place of those that ``stand`` replaces."""
    for attribute in node.attributes.values():
        for inner in _graphs(attribute):
            _reconnected(inner, stand)
    inputs = [stand.get(v, v) if v is not None else None for v in node.inputs]
    results = [_written(kept.get(str(v.name)), v) for v in node.outputs]
    stand.update(zip(node.outputs, results, strict=True))
    new = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        list(node.attributes.values()),
        overload=node.overload,
        outputs=results,
        version=node.version,
        name=node.name,
        doc_string=node.doc_string,
        metadata_props=dict(node.metadata_props),
    )
    new.meta.update(node.meta)
    new.device_configurations = tuple(
        replace(
            c,
            sharding_specs=tuple(
                replace(s, value=stand.get(s.value, s.value)) for s in c.sharding_specs
            ),
        )
        for c in node.device_configurations
    )
    return new


def _reconnected(graph: ir.Graph, stand: Mapping[ir.Value, ir.Value]) -> None:
    """Nodes of a subgraph read the kept graph's values."""
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for i, value in enumerate(node.inputs):
            if value is not None and value in stand:
                node.replace_input_with(i, stand[value])
    for inner in (graph, *graph.subgraphs()):
        for i, value in enumerate(inner.outputs):
            if value in stand:
                inner.outputs[i] = stand[value]


def _graphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []


def _written(value: ir.Value | None, like: ir.Value) -> ir.Value:
    """A value without a producer that says what ``like`` says: the given one, or a new one."""
    value = value if value is not None else ir.Value(name=like.name)
    value.type, value.shape, value.const_value = like.type, like.shape, like.const_value
    value.doc_string = like.doc_string
    value.metadata_props.clear()
    value.metadata_props.update(like.metadata_props)
    value.meta.update(like.meta)
    return value


__all__ = ["become"]
