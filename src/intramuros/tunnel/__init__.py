"""The tunnel plane: edge and gateway. Never imports control or execution."""
