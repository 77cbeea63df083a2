"""The inference server: one balancer in front of replica processes that hold the model."""
