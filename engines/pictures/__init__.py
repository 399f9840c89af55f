"""Pictures with Pillow alone: taken in from strangers, changed by named operations, written out. No engine, no HTTP."""
