"""Dense attention under the mask: the judge of the other backends."""
