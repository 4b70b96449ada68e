import platform
import time
from pathlib import Path

from stages.core.machine import (
    read_gpus,
    read_process_age,
    read_processor,
    read_python,
    read_system,
    read_torch,
)


def test_facts_of_the_machine_are_told_in_milliseconds_and_name_nobody() -> None:
    began = time.process_time()
    found = [read_python(), read_system(), read_processor(), read_gpus(), read_torch()]
    assert time.process_time() - began < 0.1
    assert platform.python_version() in read_python()
    assert read_system()["kernel"] == platform.release()
    processor = read_processor()
    assert 1 <= processor["usable_cores"] <= processor["cores"]
    assert processor["memory_mib"] > 64
    said = str(found)
    assert platform.node() not in said
    assert str(Path.cwd()) not in said


def test_age_of_the_process_is_that_since_its_beginning() -> None:
    age = read_process_age()
    assert age is not None
    time.sleep(0.05)
    later = read_process_age()
    assert later is not None
    assert 0.03 <= later - age < 5
