"""Planning sweeps: one field of a recipe varied, several planners, several seeds; a table, a figure and its reading."""
