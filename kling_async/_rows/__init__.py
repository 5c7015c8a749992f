"""Rows of files and datasets: made into requests, and the record of what has become of each."""
