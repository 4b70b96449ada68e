"""dvc.lock held against the records: whether DVC notes a run down as what it was.

`lock` reads dvc.lock, `records` holds records against it, `window` finds what was edited before DVC read it, `run_cache` takes out what is false.
"""
