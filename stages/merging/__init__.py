"""What a merge is checked by, and the config files of the merged model.

Used by merge.
"""
