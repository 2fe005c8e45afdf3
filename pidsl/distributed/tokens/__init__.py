"""Which rank holds which token, which keys some queries attend, and where the parts of a pattern are computed."""
