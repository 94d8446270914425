"""Programs from external memory: stripes of rows, groups of channels."""
