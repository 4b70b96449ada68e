"""Arrow tables on disk: written so that the same rows are the same bytes, read row group by row group.

Used by every stage that reads or writes rows.
"""
