"""A span of the timeline in words: what a process did then, and what it is for."""

from __future__ import annotations

from workbench.system import Span

WORDS = {
    "wait": "the interpreter starts; nothing of the system runs yet",
    "import": "torch is imported, which every way but ours needs to be ready",
    "load": "weights are mapped or read and checked, and what was made before is loaded",
    "capture": "the step is compiled where its shape is new, then run over two arenas that lie elsewhere: argument "
    "bytes that differ are addresses",
    "compile": "each batch size runs for the first time; torch's ways compile now what they have not in store",
    "run": "steps are run and their outputs compared or timed",
    "transfer": "the archive goes to disk aside and is renamed, so that nobody sees half of one",
}
SIMULATED = {
    "environment": "processes start and connect; set, and counted by nobody",
    "weights": "the checkpoint is read; set, and not counted by the paper",
    "memory profile and warm-up": "vLLM measures its memory with a real forward pass and warms its kernels up",
    "capture": "one decode graph for each batch size of the ladder, one after the other",
    "capture of prefill": "Foundry's archive holds decode graphs only: these are captured at every start",
    "archive": "the archive is read, memory mapped, kernels loaded",
    "templates": "one executable graph for each topology is built; other sizes are parameters",
    "graphs": "an executable graph for each batch size is built through the API, without templates",
    "ranks": "communicator handles of the other ranks are patched in",
    "restore": "a checkpoint of the whole process comes back",
}


def explain(span: Span) -> str:
    """What was done then, and why."""
    if span.kind == "refused":
        why = span.why.get("why", "")
        return f"The archive was refused as {span.why.get('cause', 'unfit')}: {why}."
    took = span.end_s - span.start_s
    seconds = f"{took:.0f} s" if took >= 10 else f"{took:.2f} s"
    if engine := span.why.get("engine"):
        return f"{span.lane}, {span.label}, {seconds}: a phase of {engine}'s own start."
    if "how" in span.why:
        said = SIMULATED.get(span.label, "part of the start")
        return f"{span.label}, {seconds} ({span.why['how']}): {said}."
    return f"{span.lane}, {span.label}, {seconds}: {WORDS.get(span.kind, WORDS['run'])}."
