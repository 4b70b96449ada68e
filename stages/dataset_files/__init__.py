"""The rows of .jsonl, .json, .csv, .parquet and compressed files as bytes, each with its place in the file.

Used by fetch_data and standardize.
"""
