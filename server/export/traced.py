"""A model as a graph of torch's own operations, for any number of examples at once.

MDW-257 a model that is no such graph, or whose examples are not known
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from client.model_state import first_line
from conf.errors import DataError


def traced(model: nn.Module, examples: Tensor) -> ExportedProgram:
    """Return a model's graph; raises DataError MDW-257 where torch can't make one."""
    try:
        return torch.export.export(
            model.eval(), (examples,), dynamic_shapes=({0: Dim("batch", min=1)},), strict=False
        )
    except Exception as error:
        raise DataError(
            "MDW-257",
            f"torch.export makes no graph of this model: {first_line(error)}.",
            "Write its forward without branches on values, or use model.safetensors with its class.",
        ) from error


def code_of(program: ExportedProgram) -> tuple[str, dict[str, Tensor]]:
    """Return a graph as the text of a Python function `graph(examples, weights)`, and its weights
    by the names that it takes them by.
    """
    module = program.graph_module
    for node in list(module.graph.nodes):
        # Checks of what the trace took for granted, which name the machine that traced it.
        if node.op == "call_function" and "_assert_" in str(node.target) and not node.users:
            module.graph.erase_node(node)
    module.recompile()
    weights: dict[str, Tensor] = {}
    begin = []
    arguments = []
    for spec in program.graph_signature.input_specs:
        placeholder = spec.arg.name
        if spec.target is None:
            arguments.append(placeholder)
            continue
        value = program.state_dict.get(spec.target)
        name = spec.target.removeprefix("model.")
        weights[name] = program.constants[spec.target] if value is None else value
        begin.append(f"    {placeholder} = weights[{name!r}]")
    (examples,) = arguments
    # torch writes a method whose first line has all of these as arguments.
    written = module.graph.python_code("self").src
    body = written[written.index("):\n") + 3 :].rstrip()
    function = [f"def graph({examples}, weights):", *begin, body]
    return "\n".join(function) + "\n", {k: v.detach().clone() for k, v in weights.items()}
