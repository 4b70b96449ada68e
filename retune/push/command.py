"""`retune push`: publish what was made on the hub, if it passed and is byte for byte what was audited. No stage and no flow calls it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retune.project import give_up, project_root
from stages.core.value_differences import show_text

if TYPE_CHECKING:
    from retune.push.files import AuditedFile
    from stages.fetching.hub import HubProblem


def push(
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; it is made if it is not there.")],
    model: Annotated[bool, typer.Option("--model", help="The merged model.")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="The adapter.")] = False,
    gguf: Annotated[bool, typer.Option("--gguf", help="The GGUF files and the Modelfile.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Everybody may see it. Default: private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would go, send nothing.")
    ] = False,
    refused_too: Annotated[bool, typer.Option("--refused-too", help="Also a model whose verdict is no.")] = False,
) -> None:
    """Push the model card and what is named (nothing named: all three) to the hub, in one commit.

    It refuses a model that did not pass, and files whose bytes, hashed again, are not those of the audit or of dvc.lock. The token comes from HF_TOKEN alone.
    """
    root = project_root()
    from retune.push.files import collect_files, refuse_failed, refuse_unlocked
    from stages.core.errors import StageError

    named = [name for name, asked in (("model", model), ("adapter", adapter), ("gguf", gguf)) if asked]
    try:
        check_name(repo)
        refuse_failed(root, refused_too=refused_too)
        refuse_unlocked(root)
        found = collect_files(root, named or ["model", "adapter", "gguf"])
        tell(found, repo, read_licence(root), public=public, dry_run=dry_run)
        if not dry_run:
            print(f"\npushed: {show_text(send(repo, found, public=public))}")
    except StageError as error:
        give_up(str(error))


def check_name(repo: str) -> None:
    """Raise StageError unless it is a name that the hub could have."""
    from stages.core.errors import StageError
    from stages.fetching.hub import REPO_ID

    if not REPO_ID.fullmatch(repo) or ".." in repo:
        raise StageError(f"{repo} is no repository of the hub: name it OWNER/NAME")


def read_licence(root: Path) -> str:
    """As the model card's head says it."""
    head = (root / "data/report/README.md").read_text(encoding="utf-8").split("\n---\n")[0]
    found = [line.removeprefix("license:").strip() for line in head.splitlines() if line.startswith("license:")]
    return f"licence {found[0]}" if found else "licence not stated: gguf.license in params.yaml"


def tell(found: "list[AuditedFile]", repo: str, licence: str, *, public: bool, dry_run: bool) -> None:
    """What goes where."""
    width = max(len(item.name) for item in found)
    print(
        show_text(
            f"{'would push' if dry_run else 'pushing'} to {repo} ({'public' if public else 'private'}; {licence}), each as it was audited:"
        )
    )
    for item in found:
        print(f"  {show_text(item.name):{width}}  {format_size(item.path.stat().st_size):>10}  {item.sha256[:12]}")
    print(f"  {len(found)} files, {format_size(sum(item.path.stat().st_size for item in found))}")


def format_size(count: int) -> str:
    """Bytes for the eye."""
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count / 1e3:,.1f} kB"  # noqa: PLR2004


def send(repo: str, found: "list[AuditedFile]", *, public: bool) -> str:
    """Upload the files in one commit; its address. The bytes that leave are hashed, and compared before the commit shows them.

    Raises StageError that says what to do; then nothing is to be seen on the hub.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from stages.core.errors import StageError
    from stages.fetching.hub import explain_hub_errors, is_proven, list_files, read_token

    if not read_token():
        raise StageError(
            "HF_TOKEN is not set: make a token that may write on the hub, and `export HF_TOKEN=...` in this shell"
        )
    with explain_hub_errors(partial(describe_push_problem, repo=repo)):
        api = HfApi(token=read_token())
        before = list_existing(api, repo, public=public)
        api.create_repo(repo, private=not public, exist_ok=True)
        added = [CommitOperationAdd(item.name, str(item.path)) for item in found]
        api.preupload_lfs_files(repo, added, free_memory=False)
        for item, operation in zip(found, added, strict=True):
            if operation.upload_info.sha256.hex() != item.sha256:
                raise StageError(f"{item.path} was changed while it was pushed; nothing was published")
        done = api.create_commit(repo, added, commit_message=f"Push {len(found)} files as they were audited")
    there = list_files(repo, done.oid, "model")
    wrong = [item.name for item in found if item.name not in there or not is_proven(item.path, there[item.name])]
    if wrong:
        raise StageError(
            f"the hub's listing of {repo} is not what was pushed ({', '.join(wrong)}); look at it, and push again"
        )
    left = sorted(
        name for name in before - {item.name for item in found} if name.endswith((".safetensors", ".gguf", ".bin"))
    )
    if left:
        print(show_text(f"the repository also holds weights that are not from this push: {', '.join(left)}"))
    return str(done.commit_url)


def list_existing(api: Any, repo: str, *, public: bool) -> set[str]:  # noqa: ANN401 - HfApi, whose import takes its time
    """The names of what the repository holds; empty if it is not there. Raises StageError if it is public and nobody asked for that."""
    from huggingface_hub.errors import RepositoryNotFoundError

    from stages.core.errors import StageError

    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        return set()
    if not info.private and not public:
        raise StageError(
            f"{repo} is there already and is public: `--public` pushes to it all the same, another name makes a private one"
        )
    if info.private and public:
        print(f"{repo} is there already and is private; it stays so (its page on the hub changes that)")
    return {file.rfilename for file in info.siblings or []}


def describe_push_problem(problem: "HubProblem", detail: int | str, repo: str) -> str:
    """What to do where something cannot be pushed, as `explain_hub_errors` asks for it."""
    from huggingface_hub import constants

    hub = constants.ENDPOINT
    todo: dict[int | str, str] = {
        401: "HF_TOKEN is not known there: make a new one",
        403: f"the account of HF_TOKEN may not write to {repo}, or the token may only read",
        404: "check the name; the account of HF_TOKEN may not see it",
    }
    said = {
        "offline": "HF_HUB_OFFLINE is set: unset it to push",
        "no_hub": f"{hub} did not take it ({detail}): check HF_ENDPOINT, and the head of data/report/README.md",
        "no_connection": f"{repo} could not be pushed to {hub} ({detail}): no connection, or cut off. Run it again; what has arrived is not sent "
        "twice",
    }
    return said.get(problem) or f"{hub} answered {detail} for {repo}: {todo.get(detail, 'try again later')}"
