"""How the two shipped street detectors are made: network, assignment, batches, training, export."""
