"""The same function over many batches by several processes, in order.

Used by fetch_data, standardize and template.
"""
