"""The paper's claims, tried on small networks: `python -m train.experiments --help`."""
