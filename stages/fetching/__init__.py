"""Where a dataset or a model comes from: the hub, data/custom, the splits in it, and how several sources are mixed.

Used by fetch_data; `hub` by fetch_model, too.
"""
