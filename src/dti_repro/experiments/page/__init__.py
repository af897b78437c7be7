"""report.html: the whole result of an experiment as one file that a browser opens without a network."""
