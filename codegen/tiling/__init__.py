"""A part of the relation as tiles: coordinates of a layout, bounds in closed form, loops over tiles."""
