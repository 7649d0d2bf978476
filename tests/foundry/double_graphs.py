"""Graphs and executables of the driver double; the rest of it is in driver_double.py."""

import itertools
from dataclasses import dataclass, field

from double_code import KERNELS

from workbench.foundry.driver import (
    Child,
    Edge,
    Kernel,
    Memcpy,
    Memset,
    Unsupported,
    UpdateRefused,
    plain,
)


@dataclass
class Function:
    symbol: str
    code: str
    layout: tuple
    library: int
    settings: dict = field(
        default_factory=lambda: {"dynamic_shared": 48 << 10, "non_portable_cluster": 0, "shared_carveout": -1}
    )


@dataclass
class Graph:
    nodes: list = field(default_factory=list)  # handles
    edges: dict = field(default_factory=dict)  # (before, after) -> (from port, to port, type)


@dataclass
class Node:
    graph: int
    what: object
    attributes: dict = field(default_factory=dict)
    inner: int = 0  # the graph of a child node


@dataclass
class Executable:
    source: int
    at: dict  # node of the source -> index
    nodes: list  # [(what, attributes, nested Executable or None)]
    edges: dict  # (index, index) -> ports


class Graphs:
    """What a Double does with graphs."""

    # ---- graphs, taken apart
    def nodes(self, graph):
        self._call("cuGraphGetNodes")
        return list(self._is(graph, Graph, "cuGraphGetNodes").nodes)

    def edges(self, graph):
        self._call("cuGraphGetEdges")
        return [Edge(*pair, *ports) for pair, ports in self._is(graph, Graph, "cuGraphGetEdges").edges.items()]

    def node(self, node):
        self._call("cuGraphNodeGetType")
        n = self._is(node, Node, "cuGraphNodeGetType")
        if isinstance(n.what, str):
            raise Unsupported(f"a {n.what} node cannot be carried by an archive")
        return Child(n.inner) if n.inner else n.what

    def attributes(self, node):
        self._call("cuGraphKernelNodeGetAttribute")
        n = self._is(node, Node, "cuGraphKernelNodeGetAttribute")
        if "device_updatable" in n.attributes:
            raise Unsupported("launch attribute device_updatable is not carried")
        return plain(n.attributes)

    # ---- graphs, built
    def graph(self):
        self._call("cuGraphCreate")
        return self._new(Graph())

    def add(self, graph, what):
        call = f"cuGraphAdd{type(what).__name__}Node"
        self._call(call)
        g = self._is(graph, Graph, call)
        inner = 0
        if isinstance(what, Child):
            self._need(call, what.graph != graph)
            inner = self._copy(self._is(what.graph, Graph, call))
        else:
            self._fits(call, what)
        made = self._new(Node(graph, what, {}, inner))
        g.nodes.append(made)
        return made

    def add_other(self, graph, kind):
        """A node of a kind that no archive carries, as a capture may hold."""
        made = self._new(Node(graph, kind))
        self._is(graph, Graph, "").nodes.append(made)
        return made

    def _copy(self, graph):
        made, names = self._new(Graph()), {}
        for old in graph.nodes:
            n = self._live[old]
            inner = self._copy(self._live[n.inner]) if n.inner else 0
            names[old] = self._new(Node(made, n.what, dict(n.attributes), inner))
        self._live[made].nodes = list(names.values())
        self._live[made].edges = {(names[a], names[b]): p for (a, b), p in graph.edges.items()}
        return made

    def _fits(self, call, what):
        if isinstance(what, Kernel):
            f = self._is(what.function, Function, call)
            sizes = [len(v) for v in what.values]
            self._need(call, sizes == [n for _, n in f.layout], message=f"{f.symbol} was given {sizes} bytes")
            x, y, z = what.block
            self._need(call, min(what.grid) > 0 and min(what.block) > 0 and x * y * z <= 1024)
            self._need(
                call,
                0 <= what.shared_bytes <= f.settings["dynamic_shared"],
                message=f"{what.shared_bytes} bytes of shared memory",
            )
        elif isinstance(what, Memset):
            self._need(call, what.element in (1, 2, 4) and what.width > 0 and what.height > 0)
            self._need(call, self._bytes(what.dst, what.width * what.element)[0] is not None)
        elif isinstance(what, Memcpy):
            self._need(call, what.width > 0 and what.height > 0 and what.depth > 0)
            self._need(call, all(self._bytes(a, what.width)[0] is not None for a in (what.dst, what.src)))

    def connect(self, graph, edges):
        self._call("cuGraphAddDependencies")
        g = self._is(graph, Graph, "cuGraphAddDependencies")
        for e in edges:
            pair, inside = (e.before, e.after), e.before in g.nodes and e.after in g.nodes
            self._need("cuGraphAddDependencies", inside and pair not in g.edges and e.before != e.after)
            kernel = isinstance(self._live[e.before].what, Kernel)
            ports = (e.from_port, e.type) == (0, 0) or (kernel and e.from_port in (1, 2) and e.type == 1)
            self._need("cuGraphAddDependencies", ports and e.to_port == 0)
            g.edges[pair] = (e.from_port, e.to_port, e.type)

    def set_attributes(self, node, attributes):
        self._call("cuGraphKernelNodeSetAttribute")
        n = self._is(node, Node, "cuGraphKernelNodeSetAttribute")
        self._need("cuGraphKernelNodeSetAttribute", isinstance(n.what, Kernel))
        n.attributes |= dict(attributes)

    def child(self, node):
        self._call("cuGraphChildGraphNodeGetGraph")
        n = self._is(node, Node, "cuGraphChildGraphNodeGetGraph")
        self._need("cuGraphChildGraphNodeGetGraph", n.inner)
        return n.inner

    def set_node(self, node, to):
        call = f"cuGraph{type(to).__name__}NodeSetParams"
        self._call(call)
        n = self._is(node, Node, call)
        self._need(call, type(n.what) is type(to))
        self._fits(call, to)
        n.what = to

    def destroy_graph(self, graph):
        self._call("cuGraphDestroy")
        for each in self._is(graph, Graph, "cuGraphDestroy").nodes:
            if inner := self._live[each].inner:
                self.destroy_graph(inner)
            del self._live[each]
        del self._live[graph]

    # ---- executables
    def instantiate(self, graph):
        self._call("cuGraphInstantiate")
        made = self._frozen(graph, "cuGraphInstantiate")
        return self._new(made)

    def _frozen(self, graph, call):
        g = self._is(graph, Graph, call)
        at = {node: i for i, node in enumerate(g.nodes)}
        nodes = []
        for each in g.nodes:
            n = self._live[each]
            self._cluster(call, n.what, n.attributes)
            nodes.append((n.what, dict(n.attributes), self._frozen(n.inner, call) if n.inner else None))
        made = Executable(graph, at, nodes, {(at[a], at[b]): p for (a, b), p in g.edges.items()})
        self._order(made, call)
        return made

    def _cluster(self, call, what, attributes):
        if isinstance(what, Kernel) and (cluster := attributes.get("cluster")):
            fits = all(c and n % c == 0 for n, c in zip(what.grid, cluster))
            self._need(call, fits, "CUDA_ERROR_INVALID_CLUSTER_SIZE")

    def _order(self, executable, call):
        waits = [0] * len(executable.nodes)
        for _, b in executable.edges:
            waits[b] += 1
        ready, order = [i for i, n in enumerate(waits) if not n], []
        while ready:
            i = ready.pop(self.draw.randrange(len(ready)))
            order.append(i)
            for a, b in executable.edges:
                if a == i:
                    waits[b] -= 1
                    ready += [b] if not waits[b] else []
        self._need(call, len(order) == len(waits), message="a circle")
        return order

    def update(self, executable, graph):
        self._call("cuGraphExecUpdate")
        e = self._is(executable, Executable, "cuGraphExecUpdate")
        self._take(e, self._frozen(graph, "cuGraphExecUpdate"))

    def _take(self, old, new):
        def refuse(result):
            raise UpdateRefused(f"CU_GRAPH_EXEC_UPDATE_ERROR_{result}")

        if len(old.nodes) != len(new.nodes) or old.edges != new.edges:
            refuse("TOPOLOGY_CHANGED")
        for (a, had, x), (b, has, y) in zip(old.nodes, new.nodes):
            if type(a) is not type(b):
                refuse("NODE_TYPE_CHANGED")
            if had != has:
                refuse("ATTRIBUTES_CHANGED")
            if isinstance(a, Memset) and a.height > 1 and (a.width, a.height) != (b.width, b.height):
                refuse("PARAMETERS_CHANGED")
            if x is not None:
                self._take(x, y)
        old.nodes = [(b, has, x) for (_, _, x), (b, has, _) in zip(old.nodes, new.nodes)]

    def set_executable(self, executable, node, to):
        call = f"cuGraphExec{type(to).__name__}NodeSetParams"
        self._call(call)
        e, n = self._is(executable, Executable, call), self._is(node, Node, call)
        self._need(call, n.graph == e.source and node in e.at)
        what, attributes, inner = e.nodes[e.at[node]]
        self._need(call, type(what) is type(to) and not isinstance(to, Child))
        self._fits(call, to)
        self._cluster(call, to, attributes)
        e.nodes[e.at[node]] = (to, attributes, inner)

    def upload(self, executable, stream):
        self._call("cuGraphUpload")
        self._is(executable, Executable, "cuGraphUpload")

    def launch(self, executable, stream):
        self._call("cuGraphLaunch")
        e = self._is(executable, Executable, "cuGraphLaunch")
        try:
            self._run(e)
        except MemoryError as error:
            self._dead = "CUDA_ERROR_ILLEGAL_ADDRESS"  # seen by whatever comes next, as there
            self.why = str(error)

    def _run(self, executable):
        for i in self._order(executable, "cuGraphLaunch"):
            what, _, inner = executable.nodes[i]
            if inner is not None:
                self._run(inner)
            elif isinstance(what, Kernel):
                KERNELS[self._is(what.function, Function, "cuGraphLaunch").code](self, what)
            elif isinstance(what, Memset):
                one = (what.value % 256**what.element).to_bytes(what.element, "little")
                for row in range(what.height):
                    self.put(what.dst + row * what.pitch, one * what.width)
            elif isinstance(what, Memcpy):
                for z, y in itertools.product(range(what.depth), range(what.height)):
                    at = what.src + (z * what.src_height + y) * what.src_pitch
                    to = what.dst + (z * what.dst_height + y) * what.dst_pitch
                    self.put(to, self.get(at, what.width))

    def synchronize(self, stream):
        self._call("cuStreamSynchronize")

    def destroy_executable(self, executable):
        self._call("cuGraphExecDestroy")
        self._is(executable, Executable, "cuGraphExecDestroy")
        del self._live[executable]
