"""The command line: one small file a verb. It may import stages and flows; they never import it."""
