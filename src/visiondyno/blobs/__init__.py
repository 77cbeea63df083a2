"""Files by the hash of their content: models, states, uploads, data; see `base`."""
