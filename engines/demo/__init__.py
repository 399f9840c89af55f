"""The demonstration models, and the small world that they know: one coloured shape on a coloured background."""
