"""Tables of several runs: what is compared, how it is computed and shown."""
