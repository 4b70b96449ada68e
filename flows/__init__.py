"""Runs of the pipeline on a snapshot of the project: dvc.yaml's graph, stage by stage; by Prefect on a schedule, or by `retune run`."""
