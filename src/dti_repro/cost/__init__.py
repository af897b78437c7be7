"""What an experiment costs, estimated before it is run."""
