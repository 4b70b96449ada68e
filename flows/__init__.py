"""The pipeline on a schedule: dvc.yaml's graph, carried out by Prefect."""
