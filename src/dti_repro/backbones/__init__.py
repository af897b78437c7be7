"""Frozen text-to-image models: the only code that knows them apart. Import what you need from the modules."""
