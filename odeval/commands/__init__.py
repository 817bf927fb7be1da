"""The verbs of the command line, by what they do. `odeval.cli` is their index."""
