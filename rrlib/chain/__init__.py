"""The chain: notebooks 01 to 04 from one profile, each a stage in a folder."""
