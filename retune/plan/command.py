"""`retune plan`: what the training of the current params will take, before anything is loaded."""

from typing import Annotated, Any

import typer

from retune.project import give_up, project_root

DOES_NOT_FIT = 3
GIB, MIB = 2**30, 2**20
MINUTE, HOUR = 60, 3600


def plan(as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON.")] = False) -> None:
    """Estimate memory, steps, time and disk of the training that params.yaml asks for, on this GPU or on the usual cards.

    Needs data/base (its headers alone are read); data/tokens, where it is there, gives the steps.

    Exit code: 0; 3 where the plan does not fit into this GPU's memory (or runtime.memory_limit_gb).
    """
    root = project_root()
    import pyarrow as pa

    from retune.plan.figures import find_figures, read_project
    from retune.terminal import say, say_json
    from stages.core.errors import StageError
    from stages.core.params import read_params
    from stages.training.memory.gpu import query_gpus

    try:
        found = find_figures(read_project(root, read_params(root / "params.yaml")), query_gpus())
    except StageError as error:
        give_up(str(error))
    except (OSError, ValueError, pa.ArrowException) as error:
        give_up(
            f"data/base or data/tokens cannot be read ({type(error).__name__}); `dvc repro template` makes them again"
        )
    if as_json:
        say_json(found)
    else:
        say("\n".join(lines(found)))
    if found["plan"] is not None and not found["plan"]["fits"]:
        raise typer.Exit(DOES_NOT_FIT)


def lines(found: dict[str, Any]) -> list[str]:
    """The answer as text."""
    base = found["base"]
    kind = "4 bit" if base["in_4_bit"] else "16 bit"
    forward = "the fused forward" if base["forward"] == "fused" else "Unsloth's own forward (a coarser estimate)"
    reason = f", since the fused one does not take {base['not_fused']}" if base["not_fused"] else ""
    text = [
        f"base     {base['model_type']}, {count(base['weights'])} weights in {kind}; {count(base['trained_parameters'])} parameters are trained",
        f"runs     through {forward}{reason}" + tell_processes(found),
        f"steps    {tell_steps(found['steps'])}",
    ]
    if found["plan"] is not None:
        text += tell_plan(found)
    elif found["cards"] is not None:
        text += tell_cards(found["cards"])
    else:
        text.append("memory   on the CPU: not estimated")
    text.append(f"time     {tell_time(found['time'])}")
    text.append(f"disk     {tell_disk(found['disk'])}")
    return text


def tell_processes(found: dict[str, Any]) -> str:
    """How many, and whether they share the base."""
    if found["processes"] == 1:
        return ""
    return f"; {found['processes']} processes" + (", over which the base is spread" if found["shards"] > 1 else "")


def tell_steps(steps: dict[str, Any]) -> str:
    """Steps, tokens, epochs."""
    a_step = (
        f"{steps['tokens_per_step']:,} tokens"
        if steps["layout"] == "packed"
        else f"{steps['conversations_per_step']} conversations"
    )
    if not steps["known"]:
        long = f"{steps['steps']:,} steps" if steps["steps"] else f"{steps['epochs']:g} epochs"
        return f"{long} of {a_step}, {steps['layout']}; data/tokens is not there yet: every row is taken as long as it may be"
    about = "" if steps["layout"] == "packed" else f" (about {steps['mean_tokens_per_step']:,} tokens)"
    return (
        f"{steps['steps']:,} of {a_step}{about}, {steps['layout']}: {count(steps['tokens'])} tokens, "
        f"{steps['epochs']:.2f} epochs, which reach {steps['rows_reached']:,} of {steps['rows']:,} training conversations"
    )


def tell_plan(found: dict[str, Any]) -> list[str]:
    """The plan on this GPU."""
    gpu, plan = found["gpu"], found["plan"]
    held = plan["memory"]
    parts = ", ".join(
        f"{name} {size(held[name])}" for name in ("weights", "adapter", "optimizer", "activations", "working")
    )
    verdict = "fits" if plan["fits"] else "DOES NOT FIT"
    return [
        f"gpu      {gpu['name']}, {size(gpu['free'])} of {size(gpu['total'])} free; training may take {size(plan['room'])}",
        f"plan     {plan['words']}; at most {plan['tokens']:,} tokens at a time",
        f"memory   {size(held['allocated'])} at its peak, {size(held['reserved'])} reserved: {verdict} ({parts})",
    ]


def tell_cards(cards: list[dict[str, Any]]) -> list[str]:
    """What fits which card."""
    text = [
        "memory   no GPU here; on the usual cards:",
        f"  {'card':>7}  {'as params.yaml says':<30}  the fastest that fits",
    ]
    for card in cards:
        asked, best = card["asked"], card["best"]
        verdict = f"{size(asked['memory']['reserved'])}: {'fits' if asked['fits'] else 'does not fit'}"
        fastest = "nothing" if best is None else f"{size(best['memory']['reserved'])}: {best['words']}"
        text.append(f"  {card['gib']:>4g} GB  {verdict:<30}  {fastest}")
    return text


def tell_time(time: dict[str, Any] | None) -> str:
    """Seconds, and where they are from."""
    if time is None:
        return "not known before a training has run on this machine"
    text = f"{time['tokens_per_second']:,} tokens/s ({time['source']})"
    if "seconds" in time:
        return f"{duration(time['seconds'])} in all, {duration(time['seconds_per_epoch'])} an epoch, at {text}"
    return text


def tell_disk(disk: dict[str, Any]) -> str:
    """Bytes of what will be written."""
    files = [f"{name} {size(disk[name])}" for name in ("adapter", "checkpoints", "merged") if disk[name]]
    files += [f"{name} {size(number)}" for name, number in disk["gguf"].items()]
    return ", ".join(files) + "; DVC's cache has each once more where the file system cannot link"


def count(number: float) -> str:
    """A number for the eye: 3.2 G, 24.3 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:g}"


def size(number: float) -> str:
    """Bytes for the eye."""
    return f"{number / GIB:.1f} GiB" if number >= GIB / 10 else f"{number / MIB:.1f} MiB"


def duration(seconds: float) -> str:
    """Seconds for the eye."""
    if seconds >= HOUR:
        return f"{seconds / HOUR:.1f} h"
    return f"{seconds / MINUTE:.0f} min" if seconds >= 2 * MINUTE else f"{seconds:.0f} s"
