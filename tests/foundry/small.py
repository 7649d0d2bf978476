"""A small archive made by hand, for tests that need no compiler: one template, two sizes, two nodes."""

import struct

from workbench.foundry.archive import digest
from workbench.foundry.graph import READ, WRITE, Capture, Function, Graph, Node, Template, Tensor

BASE, SIZE = 0x600000000000, 1 << 20
IMAGE = bytes(range(256)) * 3


def small(**changed) -> Capture:
    name = digest(IMAGE).hex()
    template = Template(
        (Function(name, "", "kernel"), Function("", "torch_cpu", "sgemm_")),
        (Node("kernel", 0, 2, "first"), Node("copy", -1, 3, "second"), Node("fill", -1, 3, "third")),
        ((0, 1),),
        ((0, READ | WRITE), (2, WRITE), (3, READ), (5, WRITE)),
    )
    graphs = {
        n: Graph(
            n,
            template.key,
            struct.pack("<8Q", BASE, n, BASE + 4096, BASE, 64 * n, BASE + 8192, 0, 64),
            struct.pack("<4Q", 64 * n, 64 * n, 64 * n, 64),
            (Tensor("logits", "output", "float32", (n, 4), 4096),),
            "00" * 16,
        )
        for n in (1, 2)
    }
    tensors = (Tensor("embed", "weight", "float32", (16, 4), 0), Tensor("ids", "input", "int64", (2,), 8192))
    fields = {
        "backend": "cpu",
        "fingerprint": {"machine": "x86_64", "cpu_features": ["avx2"]},
        "model": {"name": "small"},
        "base": BASE,
        "size": SIZE,
        "tensors": tensors,
        "binaries": {name: IMAGE},
        "templates": {template.key: template},
        "graphs": graphs,
        "weights": {"file": "none", "bytes": 256, "digest": "00"},
    }
    return Capture(**(fields | changed))
