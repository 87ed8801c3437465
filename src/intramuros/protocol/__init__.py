"""What two machines must agree on: models, transition tables, codecs. No I/O, no clock."""
