"""For frameworks that load a class by its name. A module here needs its framework, and is imported by its users only."""
