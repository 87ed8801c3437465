"""One real job through all three planes: an audit of a bank's mortgage decisions."""
