"""A family of models of a few megabytes in SDXL's file formats, for tests and the demo; a
developer's tool, not part of the node pack that ships."""
