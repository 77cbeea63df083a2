"""How the shipped depth model is made: network, batches, loss, training, export, record."""
