"""Files: local references, and the results that are saved."""
