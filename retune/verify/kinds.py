"""What `retune verify` can find: a closed list of kinds, each with what it means, and what helps."""

from dataclasses import dataclass

KINDS = {
    "lock_unreadable": "dvc.lock is missing, cut off, or not as DVC writes it",
    "lock_entry": "dvc.lock has an entry, a path or a size that cannot be, or lacks one",
    "lock_command": "dvc.lock names another command than dvc.yaml",
    "lock_hash": "dvc.lock names another hash than the file has, and a record or the cache says that the file is right",
    "lock_chain": "by dvc.lock a stage has read other bytes than the stage before it wrote",
    "lock_false": "dvc.lock names code or a source as it was edited when the stage had just ended: the stage ran on other bytes",
    "output_changed": "a file that a stage wrote has other bytes",
    "output_missing": "a file that a stage wrote is gone",
    "output_added": "a file lies among a stage's that it did not write",
    "source_changed": "a file of yours that a stage has read (data/custom ...) has other bytes",
    "source_missing": "a file of yours that a stage has read is gone",
    "code_changed": "code or pins are others than when a stage ran",
    "params_changed": "params.yaml has another value than dvc.lock has for the run",
    "record_changed": "a record is not the one that its stage wrote",
    "record_unreadable": "a record is cut off, of another stage, or not as this Retune writes it",
    "record_bytes": "a record names another sha256 than the file has, whose md5 is dvc.lock's",
    "record_chain": "by the records a stage has read other bytes than the stage before it wrote",
    "record_params": "a record names another value of a param than dvc.lock",
    "verdict_contradicts": "verdict, provenance, gate and report do not say the same",
    "execution_contradicts": "an execution record is cut off, of another run than the record beside it, or not as this Retune writes it",
    "cache_missing": "DVC's cache lacks an object that dvc.lock names",
    "cache_rotten": "an object of DVC's cache has other bytes than its name says",
    "run_cache": "an entry of DVC's run cache is not the one that its name says",
    "remote_missing": "the remote lacks an object that dvc.lock names",
    "remote_rotten": "an object of the remote has other bytes than its name says",
    "unreadable": "a file cannot be read",
}
"""{kind: what it means}. Remedies stand below; they name a stage or a path."""


FROM_GIT = "`git checkout -- dvc.lock` if it is committed, else `dvc repro {stage}`"
AGAIN = "`dvc repro` makes it anew, or put the former value back"
TOUCH = (
    "put the former bytes back; if the edit is meant, `touch {path}` (DVC believes sizes and times), then `dvc repro`"
)


def restore(stage: str) -> str:
    """What brings a stage's files back."""
    return f"`retune restore --force {stage}`"


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was written down."""

    kind: str
    """One of KINDS."""
    path: str
    """The file, below the project; of an object of a cache or remote, the file whose bytes it has."""
    says: str
    """What was found, in words."""
    field: str = ""
    """Of a file with fields (params.yaml, dvc.lock, JSON): which."""
    stage: str = ""
    """The stage that it is about."""
    remedy: str = ""
    """What to do."""


@dataclass(frozen=True)
class Verified:
    """What a run of `verify` found."""

    differences: list[Difference]
    notes: list[str]
    """What is told and is no difference."""
    files: int
    size: int
    """Bytes that were hashed."""
