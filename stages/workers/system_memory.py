"""Where Arrow takes its memory from."""

import pyarrow as pa


def take_memory_from_system() -> None:
    """Let Arrow allocate as everything else does.

    Its own allocators give freed pages back at once: where batches come and go by the hundred, the system then clears the same pages anew
    for each, up to a tenth of a data stage's processor time. The bytes that are made are the same.
    """
    pa.set_memory_pool(pa.system_memory_pool())
