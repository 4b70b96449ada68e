"""dvc.yaml's graph as `{stage: upstream stages}`. With dvc_project.py the one use of DVC's internals."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def read_dag(root: Path) -> dict[str, tuple[str, ...]]:
    """Each stage of the project at `root` with the stages whose outputs it reads.

    The order is topological, and where the graph leaves a choice, that of dvc.yaml: always the same for the same file.
    Names are what `dvc repro` takes when called in `root`. Raises ValueError, in DVC's words, for what DVC refuses.
    """
    from dvc.exceptions import DvcException  # here: DVC costs half a second, and only this function needs it

    try:
        return read_graph(root)
    except DvcException as error:
        msg = f"the stages of {root} cannot be read: {error}"
        raise ValueError(msg) from error


def read_graph(root: Path) -> dict[str, tuple[str, ...]]:
    """What `read_dag` returns; raises DVC's exceptions."""
    from dvc.repo import Repo

    with Repo(root.as_posix()) as repo:
        return order_stages(root, repo)


def order_stages(root: Path, repo: Any) -> dict[str, tuple[str, ...]]:  # noqa: ANN401 - DVC has no types
    """What `read_dag` returns, of a project that DVC has open; raises DVC's exceptions."""
    stages = list(repo.index.stages)
    name = {stage: stage_name(root, stage) for stage in stages}
    graph = repo.index.graph  # an edge leads from a stage to one that it reads from; DVC has refused circles
    upstream = {name[stage]: [name[up] for up in stages if graph.has_edge(stage, up)] for stage in stages}
    dag: dict[str, tuple[str, ...]] = {}
    while len(dag) < len(upstream):
        ready = next(
            stage for stage, before in upstream.items() if stage not in dag and all(up in dag for up in before)
        )
        dag[ready] = tuple(upstream[ready])
    return dag


def stage_name(root: Path, stage: Any) -> str:  # noqa: ANN401 - DVC has no types
    """The stage's name as seen from `root`. DVC's own `addressing` is relative to the working directory, which need not be `root`."""
    file = Path(stage.path).resolve().relative_to(root.resolve()).as_posix()
    name = getattr(stage, "name", None)
    if name is None:
        return file
    return str(name) if file == "dvc.yaml" else f"{file}:{name}"


def downstream(dag: Mapping[str, tuple[str, ...]], stages: set[str]) -> list[str]:
    """`stages` and every stage that reads, directly or not, what they write; in the order of `dag`."""
    reached = set(stages)
    for stage, upstream in dag.items():
        if reached.intersection(upstream):
            reached.add(stage)
    return [stage for stage in dag if stage in reached]


def with_upstream(dag: Mapping[str, tuple[str, ...]], stages: Iterable[str]) -> list[str]:
    """`stages` and every stage whose outputs they read, directly or not; in the order of `dag`."""
    needed = set(stages)
    for stage in reversed(list(dag)):
        if stage in needed:
            needed.update(dag[stage])
    return [stage for stage in dag if stage in needed]
