"""The course that is taught with the engine: notebooks, exercises, their checks, and pictures of this machine."""
