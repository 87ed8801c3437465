"""What models are used for: counted, limited, reported. Imports nothing above catalog."""
