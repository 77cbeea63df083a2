"""Training of detectors and image-level classifiers on labelled images, one module a library."""
